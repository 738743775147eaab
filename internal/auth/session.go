package auth

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

const (
	// MaxSessions is how many sessions of an operator live at once; a login ends
	// those that were used longest ago.
	MaxSessions = 20

	touchSession = time.Minute // how often the use of a session is recorded; so an idle session may end this much early
)

// Visit describes a call that asks to log in or to log out.
type Visit struct {
	Address   string // of the network: "192.0.2.1"
	RequestID string
	// Cookie is the browser's present session, which the new one replaces; "": none.
	Cookie string
}

// doors holds the state of logins: password hashing, failed attempts, rate limits
// and the identity provider.
type doors struct {
	passwords *passwords
	accounts  *counters // failed passwords, by account
	addresses *counters // and by address
	strangers *strangers
	limiters  limiters
	provider  provider

	// For the audit log: failed logins of unknown accounts, and failed logins at the
	// identity provider.
	refused, turnedAway refusals
}

// refusals counts failures, so that the audit log gets one row a minute for all
// of them.
type refusals struct {
	mu sync.Mutex
	n  int
	at time.Time
}

// another counts one more. n is how many the row that is now due reports; 0: no
// row is due.
func (r *refusals) another(now time.Time) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	if now.Sub(r.at) < time.Minute {
		return 0
	}
	n, r.n, r.at = r.n, 0, now
	return n
}

func newDoors(c Config) *doors {
	return &doors{passwords: newPasswords(c.Hash, c.Random), accounts: newCounters(nil), addresses: newCounters(nil),
		strangers: newStrangers(nil),
		provider:  provider{c: c.OIDC}}
}

var (
	errSession = usher.Errorf(usher.Unauthenticated, "there is no active session: log in")
	// errLogin is the only answer to a failed login. It does not say whether the
	// account exists or is locked after too many attempts.
	errLogin = usher.Errorf(usher.Unauthenticated, "the email or the password is wrong, or there were too many attempts: try again in some "+
		"minutes")
)

// secret makes a cookie of 256 bits and the id of its session.
func (s *Service) secret() (cookie, id string, err error) {
	random := s.c.Random
	if random == nil {
		random = rand.Reader
	}
	var raw [secretBytes]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return "", "", err
	}
	return text32.EncodeToString(raw[:]), s.id("ses_"), nil
}

// Session reads the session of a cookie. It returns Unauthenticated if there is
// none or it has ended: by its age, by a logout, or by an operator, on any node.
// It asks the database each time, so that a session that was ended is refused at
// once.
func (s *Service) Session(ctx context.Context, cookie string) (*usher.Session, error) {
	if len(cookie) != secretLen {
		return nil, errSession
	}
	h := hash(cookie)
	stored, err := s.c.DB.Session(ctx, h[:])
	if usher.ErrorCode(err) == usher.NotFound {
		return nil, errSession
	}
	if err != nil {
		return nil, err
	}
	now := s.c.Now()
	out := &stored
	if !out.EndedAt.IsZero() || !now.Before(out.IdleEnds()) || !now.Before(out.Ends()) {
		return nil, errSession
	}
	if now.Sub(out.SeenAt) >= touchSession {
		// If the use cannot be recorded, the call is answered all the same: the session
		// then ends sooner, not later.
		if err := s.c.DB.TouchSession(ctx, h[:], now); err != nil {
			s.c.Log.Warn("the use of a session was not noted", "session", out.ID, "error", err)
		} else {
			out.SeenAt = now
		}
	}
	return out, nil
}

// begin makes a session for an operator who has logged in, and ends the browser's
// session from before: a cookie that another person may have planted is worth
// nothing after a login.
func (s *Service) begin(ctx context.Context, v Visit, op, method, login string, proved time.Time, after any) (
	cookie string, out *usher.Session, err error) {
	now := s.c.Now().UTC().Truncate(time.Microsecond)
	cookie, id, err := s.secret()
	if err != nil {
		return "", nil, err
	}
	h := hash(cookie)
	out = &usher.Session{Hash: h[:], ID: id, Operator: op, Method: method, Login: login, CreatedAt: now, ProvedAt: proved, SeenAt: now}
	var old []byte
	if len(v.Cookie) == secretLen {
		sum := hash(v.Cookie)
		old = sum[:]
	}
	if err := s.c.DB.StartSession(ctx, *out, old, MaxSessions, s.note(v, op, "session.start", id, now, after)); err != nil {
		return "", nil, err
	}
	return cookie, out, nil
}

// follow makes a session in place of a live one, after a proof at proved.
func (s *Service) follow(ctx context.Context, v Visit, old *usher.Session, login string, proved time.Time) (
	cookie string, out *usher.Session, err error) {
	now := s.c.Now().UTC().Truncate(time.Microsecond)
	cookie, id, err := s.secret()
	if err != nil {
		return "", nil, err
	}
	h := hash(cookie)
	next := *old
	next.Hash, next.ID, next.Login, next.ProvedAt, next.SeenAt = h[:], id, login, proved, now
	if err := s.c.DB.FollowSession(ctx, next, old.Hash, s.note(v, old.Operator, "session.step_up", id, now, nil)); err != nil {
		return "", nil, err
	}
	return cookie, &next, nil
}

// system is usher itself.
var system = usher.Actor{Kind: "system"}

// note returns an audit row about a session; it holds opaque ids only.
func (s *Service) note(v Visit, op, action, object string, at time.Time, after any) store.Note {
	n := store.Note{By: usher.By{Actor: usher.Actor{Kind: "operator", ID: op}, RequestID: v.RequestID}, Action: action, Object: object, At: at}
	if op == "" {
		n.Actor = system
	}
	if after != nil {
		n.After, _ = json.Marshal(after) // numbers and words
	}
	return n
}

// Owner makes an owner for the holder of a one-time token, sets the password and
// logs the owner in. It returns Unauthenticated if the token is not valid, and
// Invalid if the password is too weak, which does not use up the token.
func (s *Service) Owner(ctx context.Context, v Visit, token string, op NewOperator, password string) (
	cookie string, out *usher.Session, err error) {
	if err := checkPassword(password, op.Email, op.Name); err != nil {
		return "", nil, err
	}
	if strings.TrimSpace(op.Email) == "" {
		return "", nil, usher.Errorf(usher.Invalid, "an email is required: the operator logs in with it")
	}
	now := s.c.Now()
	if wait := s.addresses.wait(block(v.Address), now); wait > 0 {
		return "", nil, tooMany(wait)
	}
	s.addresses.failed(block(v.Address), addressTries, now) // counted as a failure until it succeeds
	stored, err := s.passwords.hash(ctx, block(v.Address), password)
	if err != nil {
		s.addresses.uncount(block(v.Address)) // the password was not checked: this attempt does not count
		return "", nil, err
	}
	made, err := s.RedeemOwnerToken(ctx, token, op)
	if err != nil {
		return "", nil, err
	}
	s.addresses.succeeded(block(v.Address))
	now = s.c.Now().UTC().Truncate(time.Microsecond)
	// If this fails, the token is used up and the owner cannot log in: `usher
	// operator token` makes another.
	if err := s.c.DB.SetPassword(ctx, made.ID, stored, s.note(v, made.ID, "password.set", made.ID, now, nil)); err != nil {
		return "", nil, err
	}
	return s.begin(ctx, v, made.ID, usher.LoginPassword, "", now, nil)
}

// addressTries is how many failures one address has without waiting; a whole
// office may share an address.
const addressTries = 20

func tooMany(wait time.Duration) error {
	return &usher.Error{Code: usher.RateLimited, Detail: "there were too many failed attempts from this network: wait", RetryAfter: wait}
}

// Login logs an operator in by password. An unknown account, an account without a
// password, a wrong password and a locked account get the same answer,
// Unauthenticated, after the same work, so that nobody can find out which
// accounts exist. RateLimited depends on the address alone.
func (s *Service) Login(ctx context.Context, v Visit, email, password string) (cookie string, out *usher.Session, err error) {
	now := s.c.Now()
	if wait := s.addresses.wait(block(v.Address), now); wait > 0 {
		return "", nil, tooMany(wait)
	}
	var op, stored string
	if email != "" && len(email) <= 255 {
		if op, stored, err = s.c.DB.PasswordOf(ctx, email); err != nil {
			return "", nil, err
		}
	}
	before, err := s.try(ctx, v, strings.ToLower(email), op, stored, password, now)
	if err != nil {
		return "", nil, err
	}
	var after any
	if before > 0 {
		after = map[string]int32{"failures": before}
	}
	proved := s.c.Now().UTC().Truncate(time.Microsecond)
	return s.begin(ctx, v, op, usher.LoginPassword, "", proved, after)
}

// try compares a password. Each attempt counts as a failure until it succeeds, so
// that many attempts at once get no more tries than one after another.
func (s *Service) try(ctx context.Context, v Visit, account, op, stored, password string, now time.Time) (before int32, err error) {
	where := block(v.Address)
	var n int32
	var wait time.Duration
	locked := s.accounts.wait(account, now) > 0
	if locked {
		stored = ""
	} else {
		n, wait = s.accounts.failed(account, freeTries, now)
	}
	s.addresses.failed(where, addressTries, now)
	ok, err := s.passwords.matches(ctx, where, stored, password)
	if err != nil { // the caller learnt nothing: this attempt does not count
		if !locked {
			s.accounts.uncount(account)
		}
		s.addresses.uncount(where)
		return 0, err
	}
	if ok {
		s.addresses.forgive(where)
		return s.accounts.succeeded(account) - 1, nil
	}
	s.noteRefused(v, op, n, wait, now)
	return 0, errLogin
}

// noteRefused records failed logins in the audit log, in the background so that
// the answer takes no longer: the first failure of a series and each one that
// locks the account. Failures of unknown accounts are counted together, in one
// row a minute. So guessing cannot fill the log.
func (s *Service) noteRefused(v Visit, op string, n int32, wait time.Duration, now time.Time) {
	var note store.Note
	switch {
	case op == "":
		n := s.refused.another(now)
		if n == 0 {
			return
		}
		note = s.note(v, "", "session.refuse", "", now, map[string]int{"failures": n})
	case wait > 0:
		note = s.note(v, op, "session.lockout", op, now, map[string]int64{"failures": int64(n), "seconds": int64(wait / time.Second)})
	case n == 1:
		note = s.note(v, op, "session.refuse", op, now, map[string]int32{"failures": n})
	default:
		return
	}
	s.noteBeside(note)
}

// noteTurnedAway records failed logins at the identity provider in the audit log,
// in one row a minute.
func (s *Service) noteTurnedAway(v Visit) {
	now := s.c.Now()
	if n := s.turnedAway.another(now); n > 0 {
		s.noteBeside(s.note(v, "", "session.refuse", "", now, map[string]any{"failures": n, "method": usher.LoginOIDC}))
	}
}

// noteBeside writes an audit row about an unknown person, in the background.
func (s *Service) noteBeside(note store.Note) {
	note.Actor = system // the person who tried is unknown, and perhaps not the operator
	s.running.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, askFor)
		defer cancel()
		if err := s.c.DB.NoteSession(ctx, note); err != nil {
			s.c.Log.Warn("failed logins were not noted in the audit log", "error", err)
		}
	})
}

// Prove lets the operator of a session prove by password who they are, and gives
// the session a new cookie. It returns Refused for a session that came from the
// identity provider: the proof is made there.
func (s *Service) Prove(ctx context.Context, v Visit, old *usher.Session, password string) (cookie string, out *usher.Session, err error) {
	now := s.c.Now()
	if wait := s.addresses.wait(block(v.Address), now); wait > 0 {
		return "", nil, tooMany(wait)
	}
	if old.Method != usher.LoginPassword {
		return "", nil, usher.Errorf(usher.Refused, "this session was started at the identity provider: send an empty body to log in again there")
	}
	stored, err := s.c.DB.Password(ctx, old.Operator)
	if err != nil {
		return "", nil, err
	}
	if _, err := s.try(ctx, v, "operator:"+old.Operator, old.Operator, stored, password, now); err != nil {
		return "", nil, err
	}
	return s.follow(ctx, v, old, "", s.c.Now().UTC().Truncate(time.Microsecond))
}

// Logout ends a session permanently, on every node.
func (s *Service) Logout(ctx context.Context, v Visit, old *usher.Session) error {
	return s.c.DB.EndSession(ctx, *old, s.note(v, old.Operator, "session.end", old.ID, s.c.Now(), nil))
}

// EndSessions ends all sessions of an operator and returns how many there were.
// It returns NotFound if there is no such operator, and Forbidden if it is
// another operator who may do more than the caller.
func (s *Service) EndSessions(ctx context.Context, who *Identity, by usher.By, op string) (int64, error) {
	o, err := s.c.DB.Operator(ctx, op)
	if err != nil {
		return 0, err
	}
	now := s.now()
	if who.Actor.Kind != "operator" || who.Actor.ID != op {
		if err := who.mayTouch(o, now); err != nil {
			return 0, err
		}
	}
	return s.c.DB.EndSessions(ctx, op, store.Note{By: by, Action: "session.end_all", Object: op, At: now})
}

// Visitor returns the identity of a caller with a cookie, in an environment, and
// the session. It returns Unauthenticated if there is no live session or its
// operator is not active.
func (s *Service) Visitor(ctx context.Context, cookie string, env usher.Environment) (Identity, *usher.Session, error) {
	session, err := s.Session(ctx, cookie)
	if err != nil {
		return Identity{}, nil, err
	}
	i, err := s.OperatorIdentity(ctx, session.Operator, env, s.c.Now())
	if err != nil {
		return Identity{}, nil, err
	}
	return i, session, nil
}

// StepUp returns StepUpRequired if a permission is of high risk and the operator
// has not proved who they are within usher.ProofHolds.
func (s *Service) StepUp(session *usher.Session, p Permission, env usher.Environment) error {
	if p.Risk(env) != usher.RiskHigh || session.Proved(s.c.Now()) {
		return nil
	}
	return usher.Errorf(usher.StepUpRequired, "a high-risk action needs a login from the last %d minutes: log in again or step up, and "+
		"repeat the call", int(usher.ProofHolds/time.Minute))
}

// HasOIDC reports whether operators can log in with an identity provider.
func (s *Service) HasOIDC() bool { return s.c.OIDC.Issuer != "" }

// operatorOf reads the operator of a session, with its roles.
func (s *Service) operatorOf(ctx context.Context, session *usher.Session) (usher.Operator, error) {
	return s.c.DB.Operator(ctx, session.Operator)
}

// Who is the operator of a session, with what they may do.
type Who struct {
	Operator    usher.Operator
	Roles       map[usher.Environment][]string // in force now, each once, sorted
	Permissions map[usher.Environment][]Permission
	ProvedUntil time.Time // zero: no high-risk action is possible without a new proof
}

// Who returns the operator of a session and what they may do now.
func (s *Service) Who(ctx context.Context, session *usher.Session) (Who, error) {
	now := s.c.Now()
	op, err := s.operatorOf(ctx, session)
	if err != nil {
		return Who{}, err
	}
	w := Who{Operator: op, Roles: map[usher.Environment][]string{}, Permissions: map[usher.Environment][]Permission{}}
	if session.Proved(now) {
		w.ProvedUntil = session.ProvedAt.Add(usher.ProofHolds)
	}
	for _, env := range usher.Environments {
		i, err := s.OperatorIdentity(ctx, session.Operator, env, now)
		if err != nil {
			return Who{}, err
		}
		roles, permissions := []string{}, []Permission{}
		for _, r := range op.Roles {
			if r.InForce(now) && (r.Environment == "" || r.Environment == env) {
				roles = append(roles, r.Role)
			}
		}
		slices.Sort(roles)
		for _, p := range Permissions {
			if i.Allows(p) {
				permissions = append(permissions, p)
			}
		}
		w.Roles[env], w.Permissions[env] = slices.Compact(roles), permissions
	}
	return w, nil
}
