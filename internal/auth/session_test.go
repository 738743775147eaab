package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/testpg"
)

const goodPassword = "four small words here"

func TestMain(m *testing.M) { testpg.Main(m) }

// hall is a house whose passwords are hashed by something quick that counts.
type hall struct {
	*house
	hashes atomic.Int64
}

func newHallOn(t *testing.T, dsn string) *hall {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{DSN: dsn, MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &hall{house: &house{db: db, clock: &clock{t: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}, log: new(bytes.Buffer)}}
	h.Service = h.node(t)
	return h
}

func newHall(t *testing.T) *hall { return newHallOn(t, filepath.Join(t.TempDir(), "usher.db")) }

// node is a further server on the same database.
func (h *hall) node(t *testing.T) *Service {
	s := New(Config{DB: h.db, Now: h.clock.now, Log: slog.New(slog.NewTextHandler(h.log, nil)), PublicURL: "https://usher.example.com",
		Hash: func(password, salt []byte) []byte {
			h.hashes.Add(1)
			sum := sha256.Sum256(append(salt[:len(salt):len(salt)], password...))
			return sum[:]
		}})
	t.Cleanup(s.Close)
	return s
}

func (h *hall) owner(t *testing.T, email string) (cookie string, s *usher.Session) {
	t.Helper()
	token, _, err := h.OwnerToken(t.Context(), usher.By{Actor: usher.Actor{Kind: "cli"}})
	if err != nil {
		t.Fatal(err)
	}
	cookie, s, err = h.Owner(t.Context(), Visit{Address: "192.0.2.1"}, token, NewOperator{Email: email}, goodPassword)
	if err != nil {
		t.Fatal(err)
	}
	return cookie, s
}

func gone(t *testing.T, s *Service, cookie, why string) {
	t.Helper()
	if got, err := s.Session(context.Background(), cookie); usher.ErrorCode(err) != usher.Unauthenticated {
		t.Errorf("%s: got %v, %v, want no session", why, got, err)
	}
}

func there(t *testing.T, s *Service, cookie, why string) *usher.Session {
	t.Helper()
	got, err := s.Session(context.Background(), cookie)
	if err != nil {
		t.Fatalf("%s: got %v, want a session", why, err)
	}
	return got
}

func TestSessions(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); sessionStory(t, newHall(t)) })
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		server, err := testpg.Default()
		if errors.Is(err, testpg.ErrNoBinaries) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		dsn, err := server.NewDatabase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sessionStory(t, newHallOn(t, dsn))
	})
}

// sessionStory: a session ends by itself, at a logout, and by an operator, on
// every node at once; it is never the one that the browser had before.
func sessionStory(t *testing.T, h *hall) {
	ctx := t.Context()
	other := h.node(t)
	first, s := h.owner(t, "Ann@example.com")
	if len(first) != 52 {
		t.Errorf("a cookie of %d characters is not 256 bits in base32", len(first))
	}
	sum := sha256.Sum256([]byte(first))
	if stored, err := h.db.Session(ctx, sum[:]); err != nil || stored.Operator != s.Operator || strings.Contains(stored.ID, first) {
		t.Errorf("stored %v, %v, want the session under the SHA-256 of its cookie", stored, err)
	}
	there(t, other, first, "on another node")
	for _, bad := range []string{"", "x", first[:51], first + "a", strings.ToUpper(first), strings.Repeat("a", 52)} {
		gone(t, h.Service, bad, "another cookie")
	}

	// Idle: used, it lives on; unused, it ends.
	for range 3 {
		h.clock.pass(usher.SessionIdle - time.Second)
		there(t, h.Service, first, "used within the idle time")
	}
	h.clock.pass(usher.SessionIdle)
	gone(t, h.Service, first, "idle")
	gone(t, other, first, "idle, on another node")

	// A login takes nothing over: what the browser had is ended.
	login := func(old string) string {
		t.Helper()
		cookie, _, err := h.Login(ctx, Visit{Address: "192.0.2.1", Cookie: old}, "ann@EXAMPLE.com", goodPassword)
		if err != nil {
			t.Fatal(err)
		}
		return cookie
	}
	planted := login("")
	fresh := login(planted)
	if planted == fresh {
		t.Error("a login kept the cookie that the browser had")
	}
	gone(t, h.Service, planted, "the session before the login")
	gone(t, other, planted, "the session before the login, on another node")

	// Absolute: however much it is used.
	for range 24 {
		h.clock.pass(usher.SessionIdle - time.Minute)
		there(t, other, fresh, "used all day")
	}
	h.clock.pass(usher.SessionAbsolute - 24*(usher.SessionIdle-time.Minute) - time.Second)
	there(t, h.Service, fresh, "just before its end")
	h.clock.pass(time.Second)
	gone(t, h.Service, fresh, "at its end")

	// Logged out is logged out, also for who copied the cookie.
	cookie := login("")
	s = there(t, h.Service, cookie, "logged in")
	if err := h.Logout(ctx, Visit{}, s); err != nil {
		t.Fatal(err)
	}
	gone(t, h.Service, cookie, "after the logout")
	gone(t, other, cookie, "after the logout, on another node")
	if _, _, err := h.Prove(ctx, Visit{}, s, goodPassword); usher.ErrorCode(err) != usher.Unauthenticated {
		t.Errorf("a proof for a session that has ended: got %v, want Unauthenticated", err)
	}

	// An operator ends them all.
	one, two := login(""), login("")
	if n, err := other.EndSessions(ctx, &Identity{Actor: usher.Actor{Kind: "operator", ID: s.Operator}},
		usher.By{Actor: usher.Actor{Kind: "operator", ID: s.Operator}, RequestID: "r"}, s.Operator); err != nil || n < 2 {
		t.Errorf("ended %d, %v, want at least the 2", n, err)
	}
	gone(t, h.Service, one, "after all were ended")
	gone(t, h.Service, two, "after all were ended")

	// An operator who is not active any more is nobody, in whatever session.
	cookie = login("")
	h.owner(t, "bob@example.com") // another owner, so that ann may go
	no := false
	if err := h.db.UpdateOperator(ctx, s.Operator, usher.OperatorUpdate{Active: &no}, nil, usher.By{Actor: usher.Actor{Kind: "system"}},
		h.clock.now()); err != nil {
		t.Fatal(err)
	}
	h.clock.pass(time.Second)
	if _, _, err := h.Visitor(ctx, cookie, usher.Production); usher.ErrorCode(err) != usher.Unauthenticated {
		t.Errorf("a session of an inactive operator: got %v, want Unauthenticated", err)
	}
	if _, _, err := h.Login(ctx, Visit{}, "ann@example.com", goodPassword); err == nil {
		t.Error("an inactive operator logged in")
	}
}

// TestStepUp: what is of high risk takes a proof of the last ten minutes, and a
// proof changes the cookie.
func TestStepUp(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	ctx := t.Context()
	cookie, s := h.owner(t, "ann@example.com")
	ask := func(s *usher.Session, p Permission, env usher.Environment, want bool) {
		t.Helper()
		if err := h.StepUp(s, p, env); (err == nil) != want || err != nil && usher.ErrorCode(err) != usher.StepUpRequired {
			t.Errorf("%s in %s: got %v, want it allowed: %v", p, env, err, want)
		}
	}
	ask(s, PermKeysWrite, usher.Production, true)
	h.clock.pass(usher.ProofHolds - time.Microsecond)
	ask(s, PermKeysWrite, usher.Production, true)
	h.clock.pass(time.Microsecond)
	ask(s, PermKeysWrite, usher.Production, false)
	ask(s, PermOperatorsWrite, usher.Sandbox, false)
	ask(s, PermCustomersWrite, usher.Production, true)
	ask(s, "no.such", usher.Production, false)
	if _, _, err := h.Prove(ctx, Visit{Address: "192.0.2.1"}, s, goodPassword+"!"); usher.ErrorCode(err) != usher.Unauthenticated {
		t.Errorf("a wrong password: got %v, want Unauthenticated", err)
	}
	there(t, h.Service, cookie, "after a proof that failed")
	next, s2, err := h.Prove(ctx, Visit{Address: "192.0.2.1"}, s, goodPassword)
	if err != nil || next == cookie {
		t.Fatalf("got %v, want a new cookie", err)
	}
	ask(s2, PermKeysWrite, usher.Production, true)
	gone(t, h.Service, cookie, "the cookie before the proof")
	if !s2.Ends().Equal(s.Ends()) {
		t.Errorf("a proof moved the end of the session from %s to %s", s.Ends(), s2.Ends())
	}
}

// TestNoAccountIsTold: whatever is wrong with a login, the answer is one, after
// as much work.
func TestNoAccountIsTold(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	ctx := t.Context()
	h.owner(t, "ann@example.com")
	bare, err := h.CreateOperator(ctx, usher.By{Actor: usher.Actor{Kind: "cli"}},
		NewOperator{Email: "bare@example.com"}) // comes by identity provider
	if err != nil || bare.ID == "" {
		t.Fatal(err)
	}
	n := 0
	try := func(email, password string) string {
		t.Helper()
		n++
		before := h.hashes.Load()
		// Each from elsewhere, so that no address waits.
		_, s, err := h.Login(ctx, Visit{Address: "2001:db8:0:" + string("0123456789abcdef"[n%16]) + string("0123456789abcdef"[n/16%16]) +
			"::1"}, email, password)
		if got := h.hashes.Load() - before; got != 1 {
			t.Errorf("%s: %d hashes, want 1", email, got)
		}
		if err == nil {
			return "in as " + s.Operator
		}
		return string(usher.ErrorCode(err)) + " " + err.Error()
	}
	want := string(errLogin.Code) + " " + errLogin.Detail
	for _, who := range []string{"ann@example.com", "nobody@example.com", "bare@example.com", "", strings.Repeat("x", 300)} {
		for range 8 { // the last ones while the account waits
			if got := try(who, "not the password"); got != want {
				t.Errorf("%s: got %q, want %q", who, got, want)
			}
		}
	}
	if got := try("ann@example.com", goodPassword); got != want {
		t.Errorf("the right password while the account waits: got %q, want %q", got, want)
	}
	if got := try("ann@example.com", strings.Repeat("x", 2000)); got != want {
		t.Errorf("a password that is too long: got %q", got)
	}
	h.clock.pass(maxWait)
	if got := try("ann@example.com", goodPassword); !strings.HasPrefix(got, "in as") {
		t.Errorf("after the wait: got %q, want her in", got)
	}
	// A slate is clean after a login: five wrong ones cost a second only.
	for range freeTries {
		try("ann@example.com", "not the password")
	}
	h.clock.pass(firstWait)
	if got := try("ann@example.com", goodPassword); !strings.HasPrefix(got, "in as") {
		t.Errorf("after five wrong ones and a second: got %q, want her in", got)
	}
}

// TestLockoutGrows: the wait doubles to a quarter of an hour, and guesses made
// while it lasts neither count nor lengthen it.
func TestLockoutGrows(t *testing.T) {
	t.Parallel()
	c := newCounters(nil)
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	var got []time.Duration
	for range 18 {
		_, wait := c.failed("ann", freeTries, now)
		got = append(got, wait)
		now = now.Add(wait)
	}
	want := []time.Duration{0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900, 900}
	for i := range want {
		if got[i] != want[i]*time.Second {
			t.Errorf("failure %d: a wait of %s, want %s", i+1, got[i], want[i]*time.Second)
		}
	}
	if c.wait("bob", now) != 0 || c.wait("ann", now) != 0 {
		t.Error("a caller waits without need")
	}
	if n, wait := c.failed("ann", freeTries, now.Add(forgetAfter)); n != 1 || wait != 0 {
		t.Errorf("after an hour: failure %d, wait %s, want a clean slate", n, wait)
	}
}

// TestGuessesAtOnce: many guesses at the same time are no more than one after
// the other.
func TestGuessesAtOnce(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	h.owner(t, "ann@example.com")
	var compared atomic.Int64
	h.Service.passwords.kdf = func(password, salt []byte) []byte {
		if !bytes.Equal(salt, make([]byte, saltBytes)) { // the real one's
			compared.Add(1)
		}
		return make([]byte, hashBytes)
	}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { h.Login(context.Background(), Visit{Address: "192.0.2.9"}, "ann@example.com", "guess") })
	}
	all.Wait()
	if n := compared.Load(); n > freeTries {
		t.Errorf("%d guesses were compared with the password, want at most %d", n, freeTries)
	}
}

// TestOneAddressLeavesRoomForOthers: while one floods, another's login waits its
// turn and is heard; nobody waits for ever.
func TestOneAddressLeavesRoomForOthers(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	h.owner(t, "ann@example.com")
	h.owner(t, "bob@example.com")
	let, running := make(chan struct{}), make(chan struct{}, 100)
	quick := h.Service.passwords.kdf
	h.Service.passwords.kdf = func(password, salt []byte) []byte {
		running <- struct{}{}
		<-let
		return quick(password, salt)
	}
	flood := make(chan error, 100)
	login := func(address, who string, to chan<- error) {
		_, _, err := h.Login(context.Background(), Visit{Address: address}, who, goodPassword)
		to <- err
	}
	for i := range 15 { // one subscriber's
		go login(fmt.Sprintf("2001:db8::%x", i), fmt.Sprintf("%d@example.com", i), flood)
	}
	for range hashers {
		<-running
	}
	for range 15 - hashers - waitingEach {
		code(t, "one too many of an address", <-flood, usher.Unavailable)
	}
	others := make(chan error, 100)
	go login("192.0.2.7", "bob@example.com", others)
	for n := 0; n == 0; time.Sleep(time.Millisecond) {
		h.Service.passwords.mu.Lock()
		n = h.Service.passwords.from["192.0.2.7"]
		h.Service.passwords.mu.Unlock()
	}
	close(let)
	if err := <-others; err != nil {
		t.Errorf("another address's login: %v", err)
	}
	for range hashers + waitingEach {
		code(t, "one that was in time, of nobody", <-flood, usher.Unauthenticated)
	}
	if n := len(h.Service.passwords.from); n != 0 {
		t.Errorf("%d addresses are still counted", n)
	}

	h.Service.passwords.wait = time.Millisecond
	for range hashers {
		h.Service.passwords.slots <- struct{}{}
	}
	_, _, err := h.Login(t.Context(), Visit{Address: "192.0.2.8"}, "ann@example.com", goodPassword)
	code(t, "a login whose turn does not come", err, usher.Unavailable)
}

// TestPasswordsAreHashedAFewAtATime: what does not fit is told to come again.
func TestPasswordsAreHashedAFewAtATime(t *testing.T) {
	t.Parallel()
	let := make(chan struct{})
	var running, most atomic.Int64
	p := newPasswords(func(_, _ []byte) []byte {
		most.Store(max(most.Load(), running.Add(1)))
		<-let
		running.Add(-1)
		return make([]byte, hashBytes)
	}, nil)
	results := make(chan error, 100)
	for i := range 100 {
		go func() { _, err := p.hash(context.Background(), strconv.Itoa(i), "x"); results <- err }()
	}
	busy := 0
	for range 100 - hashers - waiting {
		if err := <-results; usher.ErrorCode(err) == usher.Unavailable {
			busy++
		}
	}
	close(let)
	for range hashers + waiting {
		if err := <-results; err != nil {
			t.Errorf("one that waited: %v", err)
		}
	}
	if busy != 100-hashers-waiting || most.Load() > hashers {
		t.Errorf("%d were sent away and %d ran at once, want %d and at most %d", busy, most.Load(), 100-hashers-waiting, hashers)
	}
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "short", "elevenchars", "passwordpassword", "Password1234!", "111111111111", "123456789012",
		"qwertyuiop123", "ann.smith.ann.smith", "Ann.Smith2026!",
		strings.Repeat("x ", 513), "invalid \xff utf-8 here", "usherusherusher"} {
		if err := checkPassword(bad, "ann.smith@example.com", "Ann Smith"); usher.ErrorCode(err) != usher.Invalid {
			t.Errorf("%q: got %v, want Invalid", bad, err)
		} else if len(bad) > 5 && strings.Contains(err.Error(), bad) {
			t.Errorf("the error repeats the password %q", bad)
		}
	}
	for _, good := range []string{goodPassword, "correct horse bicycle", "tr0ub4dor&3xyz", strings.Repeat("ä", 12), "        . .. ",
		"my password is long enough", strings.Repeat("xy", 512)} {
		if err := checkPassword(good, "ann.smith@example.com", ""); err != nil {
			t.Errorf("%q: got %v, want it taken", good, err)
		}
	}
	// The real derivation, once.
	p := newPasswords(nil, nil)
	stored, err := p.hash(t.Context(), "192.0.2.1", goodPassword)
	if err != nil || !strings.HasPrefix(stored, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatalf("got %q, %v", stored, err)
	}
	for password, want := range map[string]bool{goodPassword: true, goodPassword + " ": false, "": false} {
		if ok, err := p.matches(t.Context(), "192.0.2.1", stored, password); ok != want || err != nil {
			t.Errorf("%q: got %v, %v, want %v", password, ok, err, want)
		}
	}
	if ok, _ := p.matches(t.Context(), "", "", ""); ok {
		t.Error("no password matched no password")
	}
}

func TestOwnerToken(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	ctx := t.Context()
	token, _, err := h.OwnerToken(ctx, usher.By{Actor: usher.Actor{Kind: "cli"}})
	if err != nil {
		t.Fatal(err)
	}
	visit := Visit{Address: "192.0.2.1"}
	ann := NewOperator{Email: "ann@example.com"}
	if _, _, err := h.Owner(ctx, visit, token, ann, "short"); usher.ErrorCode(err) != usher.Invalid {
		t.Errorf("a short password: got %v, want Invalid", err)
	}
	if _, _, err := h.Owner(ctx, visit, token, NewOperator{Email: " \t"}, goodPassword); usher.ErrorCode(err) != usher.Invalid {
		t.Errorf("an email of spaces, with which nobody could log in: got %v, want Invalid", err)
	}
	if _, _, err := h.Owner(ctx, visit, token+"x", ann, goodPassword); usher.ErrorCode(err) != usher.Unauthenticated {
		t.Errorf("another token: got %v, want Unauthenticated", err)
	}
	_, s, err := h.Owner(ctx, visit, token, ann, goodPassword)
	if err != nil {
		t.Fatalf("neither used the token up: got %v", err)
	}
	w, err := h.Who(ctx, s)
	if err != nil || len(w.Roles[usher.Production]) != 1 || w.Roles[usher.Production][0] != RoleOwner ||
		len(w.Permissions[usher.Production]) != len(Permissions) || w.ProvedUntil.IsZero() {
		t.Errorf("got %+v, %v, want an owner who has just proved it", w, err)
	}
	if _, _, err := h.Owner(ctx, visit, token, NewOperator{Email: "eve@example.com"},
		goodPassword); usher.ErrorCode(err) != usher.Unauthenticated {
		t.Errorf("the token again: got %v, want Unauthenticated", err)
	}
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::/64",
		"2001:db8::2:3": "2001:db8::/64",
		"fe80::1%eth0":  "fe80::/64", "192.0.2.1:80": "192.0.2.1", "[2001:db8::1]:80": "2001:db8::/64", "@": "", "": ""} {
		if got := block(address); got != want {
			t.Errorf("%q: got %q, want %q", address, got, want)
		}
	}
}

// TestStrangers: an address may fail twenty times at once and twenty times a
// minute; others are not held up by it.
func TestStrangers(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	for range 3 {
		for i := range strangersBurst {
			if wait := h.Stranger("192.0.2.1"); wait != 0 {
				t.Fatalf("failure %d: wait %s", i+1, wait)
			}
		}
		if wait := h.Stranger("192.0.2.1"); wait <= 0 || wait > 3*time.Second {
			t.Errorf("one too many: wait %s, want 3 s", wait)
		}
		if wait := h.Stranger("192.0.2.2"); wait != 0 {
			t.Errorf("another address waits %s", wait)
		}
		h.clock.pass(time.Minute)
	}
}

// TestLimit: a key's own rate, else the server's, else none; sessions have none.
func TestLimit(t *testing.T) {
	t.Parallel()
	h := newHall(t)
	key := Identity{Actor: usher.Actor{Kind: "key", ID: "k"}}
	if _, ok := h.Limit(&key); ok {
		t.Error("a key without a limit has one")
	}
	key.Rate = usher.RateLimit{PerSecond: 2, Burst: 3}
	for i := range 3 {
		if l, ok := h.Limit(&key); !ok || l.Wait != 0 || l.Left != 2-i || l.Burst != 3 {
			t.Errorf("call %d: got %+v, %v", i+1, l, ok)
		}
	}
	if l, _ := h.Limit(&key); l.Wait <= 0 || l.Wait > 500*time.Millisecond {
		t.Errorf("the fourth: got %+v, want a wait of half a second", l)
	}
	h.clock.pass(500 * time.Millisecond)
	if l, _ := h.Limit(&key); l.Wait != 0 {
		t.Errorf("half a second later: got %+v", l)
	}
	h.c.RateLimit = 10
	if l, ok := h.Limit(&Identity{Actor: usher.Actor{Kind: "key", ID: "other"}}); !ok || l.Burst != 10 || l.Left != 9 {
		t.Errorf("the server's limit: got %+v, %v", l, ok)
	}
	if _, ok := h.Limit(&Identity{Actor: usher.Actor{Kind: "operator", ID: "o"}}); ok {
		t.Error("a session is limited")
	}
}

func TestLocalPath(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{"/": true, "/customers?x=1#y": true, "/a//b": true, "": false, "//evil.example": false,
		"/\\evil.example": false, "\\\\evil": false,
		"https://evil.example": false, "javascript:alert(1)": false, "/\t/evil.example": false, "/\n/evil": false, "customers": false,
		"/a\\b": false, " /x": false, "/ä": false, "/%0a": true, "/" + strings.Repeat("x", 2000): false} {
		if got := LocalPath(path); got != want {
			t.Errorf("%q: got %v, want %v", path, got, want)
		}
	}
}
