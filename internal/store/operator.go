package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/usher-sh/usher"
)

// Operator is one of us who works with usher. Name and Email are personal data:
// they are nowhere but in its own row, where they can be erased.
type Operator struct {
	ID        string         `json:"id"` // opaque, "opr_…"
	Name      string         `json:"name,omitempty"`
	Email     string         `json:"email,omitempty"` // lower case; nobody else has it
	Active    bool           `json:"active"`          // one that is not may do nothing
	Linked    bool           `json:"linked"`          // to somebody at an identity provider, who comes in as this operator
	CreatedAt time.Time      `json:"created_at"`
	Roles     []OperatorRole `json:"roles" nullable:"false"` // past and future ones too, oldest first
}

// OperatorRole gives an operator a role.
type OperatorRole struct {
	ID          string            `json:"id"` // opaque, "oas_…"
	Role        string            `json:"role"`
	Environment usher.Environment `json:"environment,omitempty"` // "" is both
	From        time.Time         `json:"from"`                  // from here on (A07)
	Until       *time.Time        `json:"until,omitempty"`       // up to here, not included; nil: for good
	Source      usher.Source      `json:"source"`                // manual, sso, request or break_glass
	GrantedBy   string            `json:"granted_by"`            // an actor: "operator:opr_…", "key:…", "cli"
	Reason      string            `json:"reason,omitempty"`
}

// InForce reports whether r gives anything at now.
func (r *OperatorRole) InForce(now time.Time) bool {
	return !now.Before(r.From) && (r.Until == nil || now.Before(*r.Until))
}

// Subject is somebody at an identity provider, who is known by both together.
// The zero Subject is nobody.
type Subject struct {
	Issuer, Subject string
}

// OperatorUpdate changes an operator; nil leaves as it is.
type OperatorUpdate struct {
	Name, Email *string
	Active      *bool
	// Subject is who the operator is at Issuer from now on, in place of whoever it
	// was there; with an empty Subject it is nobody there any more.
	Subject *Subject
}

// May says, within the transaction of a change, why the change may not be made:
// read reads operators as they are there. nil is that it may.
type May func(read func(id string) (Operator, error)) error

const selectOperator = `SELECT id, name, email, active, created_at, EXISTS (SELECT 1 FROM operator_subject s WHERE s.operator = operator.id) FROM operator `

func scanOperator(row *sql.Rows, o *Operator) error {
	var active, created int64
	err := row.Scan(&o.ID, &o.Name, &o.Email, &active, &created, &o.Linked)
	o.Active, o.CreatedAt, o.Roles = active != 0, fromMicros(created), []OperatorRole{}
	return err
}

type operatorRoleRow struct {
	operator string
	OperatorRole
}

const selectOperatorRole = `SELECT operator, id, role, env, from_at, until_at, source, granted_by, reason FROM operator_role `

func scanOperatorRole(row *sql.Rows, r *operatorRoleRow) error {
	var from, until int64
	err := row.Scan(&r.operator, &r.ID, &r.Role, &r.Environment, &from, &until, &r.Source, &r.GrantedBy, &r.Reason)
	r.From = fromMicros(from)
	if until != forever {
		t := fromMicros(until)
		r.Until = &t
	}
	return err
}

// Operators reads all operators with their roles, oldest first.
func (db *DB) Operators(ctx context.Context) ([]Operator, error) {
	all, err := list(ctx, db, scanOperator, selectOperator+`ORDER BY created_at, id`)
	if err != nil {
		return nil, err
	}
	roles, err := list(ctx, db, scanOperatorRole, selectOperatorRole+`ORDER BY from_at, id`)
	if err != nil {
		return nil, err
	}
	at := map[string]int{}
	for i := range all {
		at[all[i].ID] = i
	}
	for _, r := range roles {
		if i, ok := at[r.operator]; ok {
			all[i].Roles = append(all[i].Roles, r.OperatorRole)
		}
	}
	return all, nil
}

// Operator reads an operator with its roles; NotFound where there is none.
func (db *DB) Operator(ctx context.Context, id string) (Operator, error) {
	o, ok, err := one(ctx, db, scanOperator, selectOperator+`WHERE id = $1`, id)
	if err == nil && !ok {
		err = noOperator(id)
	}
	if err != nil {
		return Operator{}, err
	}
	roles, err := list(ctx, db, scanOperatorRole, selectOperatorRole+`WHERE operator = $1 ORDER BY from_at, id`, id)
	for _, r := range roles {
		o.Roles = append(o.Roles, r.OperatorRole)
	}
	return o, err
}

// OperatorByEmail reads the operator who has an address, in lower case; NotFound
// where none has.
func (db *DB) OperatorByEmail(ctx context.Context, email string) (Operator, error) {
	o, ok, err := one(ctx, db, scanOperator, selectOperator+`WHERE email = $1 AND email <> ''`, email)
	if err == nil && !ok {
		err = usher.Errorf(usher.NotFound, "no operator has this address")
	}
	if err != nil {
		return Operator{}, err
	}
	return db.Operator(ctx, o.ID)
}

func noOperator(id string) error { return usher.Errorf(usher.NotFound, "no operator %q", id) }

// errLastOwner is why the last owner stays. One whose role ends by a date, or
// holds in one environment only, does not count: the installation would be
// without an owner then.
var errLastOwner = usher.Errorf(usher.Refused, "this would leave the installation without an owner who is active and for good: make another owner first")

// ownerRole is the role that the last-owner rule is about.
const ownerRole = "owner"

// operators runs a change to operators: one at a time, and never one that takes
// the last owner away (A12).
func (db *DB) operators(ctx context.Context, at time.Time, fn func(tx *sql.Tx) error) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		if _, err := exec(ctx, tx, `UPDATE operators SET revision = revision + 1`); err != nil { // the lock, on PostgreSQL
			return err
		}
		before, err := owners(ctx, tx, at)
		if err != nil {
			return err
		}
		if err := fn(tx); err != nil {
			return err
		}
		after, err := owners(ctx, tx, at)
		if err == nil && before > 0 && after == 0 {
			err = errLastOwner
		}
		return err
	})
}

func owners(ctx context.Context, tx *sql.Tx, at time.Time) (n int, err error) {
	err = tx.QueryRowContext(ctx, `SELECT count(*) FROM operator o WHERE o.active = 1 AND EXISTS (SELECT 1 FROM operator_role r
		WHERE r.operator = o.id AND r.role = $1 AND r.env = '' AND r.from_at <= $2 AND r.until_at = $3)`, ownerRole, micros(at), int64(forever)).Scan(&n)
	return n, err
}

// operatorOf reads an operator in a transaction that holds the lock.
func operatorOf(ctx context.Context, tx *sql.Tx, id string) (o Operator, err error) {
	var active, created int64
	err = tx.QueryRowContext(ctx, selectOperator+`WHERE id = $1`, id).Scan(&o.ID, &o.Name, &o.Email, &active, &created, &o.Linked)
	if err == sql.ErrNoRows {
		err = noOperator(id)
	}
	o.Active, o.CreatedAt = active != 0, fromMicros(created)
	return o, err
}

// allowed asks may, if there is one, in a transaction that holds the lock.
func allowed(ctx context.Context, tx *sql.Tx, may May) error {
	if may == nil {
		return nil
	}
	return may(func(id string) (Operator, error) {
		o, err := operatorOf(ctx, tx, id)
		if err != nil {
			return o, err
		}
		rows, err := tx.QueryContext(ctx, selectOperatorRole+`WHERE operator = $1 ORDER BY from_at, id`, id)
		if err != nil {
			return o, err
		}
		defer rows.Close()
		for rows.Next() {
			var r operatorRoleRow
			if err := scanOperatorRole(rows, &r); err != nil {
				return o, err
			}
			o.Roles = append(o.Roles, r.OperatorRole)
		}
		return o, rows.Err()
	})
}

// link lets an operator be who comes from an identity provider as. Conflict
// where that is another operator already.
func link(ctx context.Context, tx *sql.Tx, operator string, as Subject) error {
	var other string
	switch err := tx.QueryRowContext(ctx, `SELECT operator FROM operator_subject WHERE issuer = $1 AND subject = $2`, as.Issuer, as.Subject).Scan(&other); {
	case err == nil:
		return usher.Errorf(usher.Conflict, "whoever this is at the identity provider is the operator %q here already: give that one the roles, or erase it first", other)
	case err != sql.ErrNoRows:
		return err
	}
	_, err := exec(ctx, tx, `INSERT INTO operator_subject (issuer, subject, operator) VALUES ($1, $2, $3)`, as.Issuer, as.Subject, operator)
	return err
}

// relink is an update's Subject; changed reports whether it changed anything.
// Sessions of whoever it was before end.
func relink(ctx context.Context, tx *sql.Tx, operator string, as Subject, at time.Time) (changed bool, err error) {
	var same bool
	if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM operator_subject WHERE issuer = $1 AND subject = $2 AND operator = $3)`, as.Issuer, as.Subject, operator).Scan(&same); err != nil || same {
		return false, err
	}
	n, err := exec(ctx, tx, `DELETE FROM operator_subject WHERE issuer = $1 AND operator = $2`, as.Issuer, operator)
	if err != nil {
		return false, err
	}
	if n > 0 {
		if _, err := endSessions(ctx, tx, operator, at); err != nil {
			return false, err
		}
	}
	if as.Subject == "" {
		return n > 0, nil
	}
	return true, link(ctx, tx, operator, as)
}

// operatorShown is what the audit log says of an operator: no personal data, and
// so not who it is elsewhere, only that it is somebody there.
type operatorShown struct {
	Active  bool     `json:"active"`
	Linked  bool     `json:"linked,omitempty"`
	Changed []string `json:"changed,omitempty"`
}

func (db *DB) auditOperators(ctx context.Context, tx *sql.Tx, by usher.By, at time.Time, action, object string, before, after any) (err error) {
	e := AuditEntry{Note: Note{By: by, Action: action, Object: object, At: at}}
	for _, x := range []struct {
		to *json.RawMessage
		v  any
	}{{&e.Before, before}, {&e.After, after}} {
		if x.v != nil {
			if *x.to, err = json.Marshal(x.v); err != nil {
				return err
			}
		}
	}
	return db.audit(ctx, tx, e)
}

func insertOperator(ctx context.Context, tx *sql.Tx, o Operator) error {
	_, err := exec(ctx, tx, `INSERT INTO operator (id, name, email, active, created_at) VALUES ($1, $2, $3, $4, $5)`,
		o.ID, o.Name, o.Email, bit(o.Active), micros(o.CreatedAt))
	return emailTaken(err)
}

func emailTaken(err error) error {
	if duplicate(err) {
		return usher.Errorf(usher.Conflict, "another operator has this address")
	}
	return err
}

func insertOperatorRole(ctx context.Context, tx *sql.Tx, operator string, r OperatorRole) error {
	_, err := exec(ctx, tx, `INSERT INTO operator_role (id, operator, role, env, from_at, until_at, source, granted_by, reason) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		r.ID, operator, r.Role, string(r.Environment), micros(r.From), end(r.Until), string(r.Source), r.GrantedBy, r.Reason)
	return err
}

// CreateOperator stores a new operator, without roles, who comes from an
// identity provider as as, or as nobody. Conflict where its address is
// another's, or as is another operator.
func (db *DB) CreateOperator(ctx context.Context, o Operator, as Subject, by usher.By, at time.Time) error {
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		if err := insertOperator(ctx, tx, o); err != nil {
			return err
		}
		if as != (Subject{}) {
			if err := link(ctx, tx, o.ID, as); err != nil {
				return err
			}
		}
		return db.auditOperators(ctx, tx, by, at, "operator.create", o.ID, nil, operatorShown{Active: o.Active, Linked: as != (Subject{})})
	})
}

// UpdateOperator changes an operator where may says so. NotFound where there is
// none; Conflict as CreateOperator; Refused where it is the last owner and would
// not be active.
func (db *DB) UpdateOperator(ctx context.Context, id string, u OperatorUpdate, may May, by usher.By, at time.Time) error {
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		o, err := operatorOf(ctx, tx, id)
		if err == nil {
			err = allowed(ctx, tx, may)
		}
		if err != nil {
			return err
		}
		before := operatorShown{Active: o.Active, Linked: o.Linked}
		var after operatorShown
		if u.Name != nil && *u.Name != o.Name {
			o.Name = *u.Name
			after.Changed = append(after.Changed, "name")
		}
		if u.Email != nil && *u.Email != o.Email {
			o.Email = *u.Email
			after.Changed = append(after.Changed, "email")
		}
		if u.Active != nil {
			o.Active = *u.Active
		}
		if u.Subject != nil {
			changed, err := relink(ctx, tx, id, *u.Subject, at)
			if err != nil {
				return err
			}
			if changed {
				after.Changed = append(after.Changed, "subject")
			}
			if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM operator_subject WHERE operator = $1)`, id).Scan(&o.Linked); err != nil {
				return err
			}
		}
		after.Active, after.Linked = o.Active, o.Linked
		if len(after.Changed) == 0 && after.Active == before.Active {
			return nil
		}
		if _, err := exec(ctx, tx, `UPDATE operator SET name = $2, email = $3, active = $4 WHERE id = $1`, id, o.Name, o.Email, bit(o.Active)); err != nil {
			return emailTaken(err)
		}
		return db.auditOperators(ctx, tx, by, at, "operator.update", id, before, after)
	})
}

// DeleteOperator erases an operator with its roles, sessions and what it logs in
// with, where may says so. NotFound where there is none;
// Refused where it is the last owner.
func (db *DB) DeleteOperator(ctx context.Context, id string, may May, by usher.By, at time.Time) error {
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		o, err := operatorOf(ctx, tx, id)
		if err == nil {
			err = allowed(ctx, tx, may)
		}
		if err != nil {
			return err
		}
		for _, text := range []string{`DELETE FROM operator WHERE id = $1`, `DELETE FROM operator_role WHERE operator = $1`,
			`DELETE FROM operator_password WHERE operator = $1`, `DELETE FROM operator_subject WHERE operator = $1`, `DELETE FROM session WHERE operator = $1`} {
			if _, err := exec(ctx, tx, text, id); err != nil {
				return err
			}
		}
		return db.auditOperators(ctx, tx, by, at, "operator.delete", id, operatorShown{Active: o.Active}, nil)
	})
}

// roleShown is what the audit log says of an operator's role.
type roleShown struct {
	Role        string            `json:"role"`
	Environment usher.Environment `json:"environment,omitempty"`
	From        *time.Time        `json:"from,omitempty"`
	Until       *time.Time        `json:"until,omitempty"`
	Source      usher.Source      `json:"source,omitempty"`
}

func shownRole(r OperatorRole) roleShown {
	return roleShown{Role: r.Role, Environment: r.Environment, From: &r.From, Until: r.Until, Source: r.Source}
}

// PutOperatorRole gives an operator a role in place of those of the same role,
// environment and source. NotFound where there is no such operator; Refused
// where the last owner would be one until a date only. May is asked first.
func (db *DB) PutOperatorRole(ctx context.Context, operator string, r OperatorRole, may May, by usher.By, at time.Time) error {
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		if _, err := operatorOf(ctx, tx, operator); err != nil {
			return err
		}
		if err := allowed(ctx, tx, may); err != nil {
			return err
		}
		if _, err := exec(ctx, tx, `DELETE FROM operator_role WHERE operator = $1 AND role = $2 AND env = $3 AND source = $4`,
			operator, r.Role, string(r.Environment), string(r.Source)); err != nil {
			return err
		}
		if err := insertOperatorRole(ctx, tx, operator, r); err != nil {
			return err
		}
		by.Reason = r.Reason
		return db.auditOperators(ctx, tx, by, at, "operator.role.put", operator, nil, shownRole(r))
	})
}

// DeleteOperatorRole takes a role in an environment ("" is both) from an
// operator, whatever gave it, where may says so. NotFound where it has no such
// role; Refused where it is the last owner's.
func (db *DB) DeleteOperatorRole(ctx context.Context, operator, role string, env usher.Environment, may May, by usher.By, at time.Time) error {
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		if err := allowed(ctx, tx, may); err != nil {
			return err
		}
		n, err := exec(ctx, tx, `DELETE FROM operator_role WHERE operator = $1 AND role = $2 AND env = $3`, operator, role, string(env))
		if err == nil && n == 0 {
			err = usher.Errorf(usher.NotFound, "the operator %q has no role %q there", operator, role)
		}
		if err != nil {
			return err
		}
		return db.auditOperators(ctx, tx, by, at, "operator.role.delete", operator, roleShown{Role: role, Environment: env}, nil)
	})
}

// AddOwnerToken stores the hash of a one-time token that makes an owner until
// expires. It drops those that have expired.
func (db *DB) AddOwnerToken(ctx context.Context, hash []byte, expires time.Time, by usher.By, at time.Time) error {
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		if _, err := exec(ctx, tx, `DELETE FROM owner_token WHERE expires_at <= $1`, micros(at)); err != nil {
			return err
		}
		if _, err := exec(ctx, tx, `INSERT INTO owner_token (hash, expires_at) VALUES ($1, $2)`, hash, micros(expires)); err != nil {
			return err
		}
		return db.auditOperators(ctx, tx, by, at, "operator.token", "owner", nil, nil)
	})
}

// RedeemOwnerToken uses a token up and stores a new operator with a role.
// Unauthenticated where there is no such token, or it has expired.
func (db *DB) RedeemOwnerToken(ctx context.Context, hash []byte, o Operator, r OperatorRole, by usher.By, at time.Time) error {
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		n, err := exec(ctx, tx, `DELETE FROM owner_token WHERE hash = $1 AND expires_at > $2`, hash, micros(at))
		if err == nil && n == 0 {
			err = usher.Errorf(usher.Unauthenticated, "this is no owner token, or it was used, or it is older than a day: `usher operator token` makes another")
		}
		if err == nil {
			err = insertOperator(ctx, tx, o)
		}
		if err == nil {
			err = insertOperatorRole(ctx, tx, o.ID, r)
		}
		if err != nil {
			return err
		}
		by.Reason = r.Reason
		return db.auditOperators(ctx, tx, by, at, "operator.first_owner", o.ID, nil, shownRole(r))
	})
}

// Elevation is a role for a while: asked for and approved by another, or taken
// in an emergency (break-glass) and reviewed by another afterwards.
type Elevation struct {
	ID          string            `json:"id"` // opaque, "elv_…"
	Operator    string            `json:"operator" doc:"Who asks, and who gets it"`
	Role        string            `json:"role"`
	Environment usher.Environment `json:"environment,omitempty" doc:"Absent: both"`
	Reason      string            `json:"reason"`
	Seconds     int64             `json:"seconds" doc:"How long it holds from the approval on"`
	BreakGlass  bool              `json:"break_glass,omitempty"`
	State       string            `json:"state" enum:"requested,approved,denied"`
	RequestedAt time.Time         `json:"requested_at"`
	DecidedBy   string            `json:"decided_by,omitempty" doc:"An operator's id"`
	DecidedAt   *time.Time        `json:"decided_at,omitempty"`
	Until       *time.Time        `json:"until,omitempty" doc:"When an approved one ends"`
	Note        string            `json:"note,omitempty" doc:"Of who decided"`
	Review      string            `json:"review,omitempty" enum:"pending,justified,unjustified" doc:"Of an emergency"`
	ReviewedBy  string            `json:"reviewed_by,omitempty" doc:"An operator's id"`
	ReviewedAt  *time.Time        `json:"reviewed_at,omitempty"`
	ReviewNote  string            `json:"review_note,omitempty"`
}

// The states of an elevation and of its review.
const (
	ElevationRequested = "requested"
	ElevationApproved  = "approved"
	ElevationDenied    = "denied"
	ReviewPending      = "pending"
)

const selectElevation = `SELECT id, operator, role, env, reason, seconds, break_glass, state, requested_at, decided_by, decided_at, note, review, reviewed_by, reviewed_at, review_note FROM elevation `

func scanElevation(row interface{ Scan(...any) error }, e *Elevation) error {
	var glass, requested, decided, reviewed int64
	err := row.Scan(&e.ID, &e.Operator, &e.Role, &e.Environment, &e.Reason, &e.Seconds, &glass, &e.State, &requested, &e.DecidedBy, &decided, &e.Note,
		&e.Review, &e.ReviewedBy, &reviewed, &e.ReviewNote)
	e.BreakGlass, e.RequestedAt = glass != 0, fromMicros(requested)
	if decided != 0 {
		t := fromMicros(decided)
		e.DecidedAt = &t
		if e.State == ElevationApproved {
			u := t.Add(time.Duration(e.Seconds) * time.Second)
			e.Until = &u
		}
	}
	if reviewed != 0 {
		t := fromMicros(reviewed)
		e.ReviewedAt = &t
	}
	return err
}

func scanElevationRow(row *sql.Rows, e *Elevation) error { return scanElevation(row, e) }

// Elevations reads the newest elevations first, at most 1,000: of one operator
// or, "", of all; pending leaves only those whose review is due.
func (db *DB) Elevations(ctx context.Context, operator string, pending bool) ([]Elevation, error) {
	return list(ctx, db, scanElevationRow, selectElevation+`WHERE ($1 = '' OR operator = $1) AND ($2 = 0 OR review = 'pending') ORDER BY requested_at DESC, id LIMIT 1000`,
		operator, bit(pending))
}

// Elevation reads an elevation; NotFound where there is none.
func (db *DB) Elevation(ctx context.Context, id string) (Elevation, error) {
	e, ok, err := one(ctx, db, scanElevationRow, selectElevation+`WHERE id = $1`, id)
	if err == nil && !ok {
		err = usher.Errorf(usher.NotFound, "no elevation %q", id)
	}
	return e, err
}

// PendingReviews counts the emergencies whose review is due.
func (db *DB) PendingReviews(ctx context.Context) (int64, error) {
	n, _, err := one(ctx, db, func(row *sql.Rows, n *int64) error { return row.Scan(n) }, `SELECT count(*) FROM elevation WHERE review = 'pending'`)
	return n, err
}

// elevationShown is what the audit log says of an elevation.
type elevationShown struct {
	Operator    string            `json:"operator"`
	Role        string            `json:"role"`
	Environment usher.Environment `json:"environment,omitempty"`
	Seconds     int64             `json:"seconds"`
	BreakGlass  bool              `json:"break_glass,omitempty"`
	State       string            `json:"state"`
	Review      string            `json:"review,omitempty"`
}

func shownElevation(e Elevation) elevationShown {
	return elevationShown{e.Operator, e.Role, e.Environment, e.Seconds, e.BreakGlass, e.State, e.Review}
}

// RequestElevation stores a request, or an emergency with the role that it
// gives at once. Refused where another emergency of the operator waits for its
// review.
func (db *DB) RequestElevation(ctx context.Context, e Elevation, role *OperatorRole, by usher.By, at time.Time) error {
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		action := "elevation.request"
		if e.BreakGlass {
			action = "elevation.break_glass"
			var n int
			if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM elevation WHERE operator = $1 AND review = 'pending'`, e.Operator).Scan(&n); err != nil {
				return err
			}
			if n > 0 {
				return usher.Errorf(usher.Refused, "your last emergency has not been reviewed: another operator does that first")
			}
			if err := insertOperatorRole(ctx, tx, e.Operator, *role); err != nil {
				return err
			}
		}
		var decided int64
		if e.DecidedAt != nil {
			decided = micros(*e.DecidedAt)
		}
		if _, err := exec(ctx, tx, `INSERT INTO elevation (id, operator, role, env, reason, seconds, break_glass, state, requested_at, decided_by, decided_at, note, review, reviewed_by, reviewed_at, review_note)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, '', $12, '', 0, '')`, e.ID, e.Operator, e.Role, string(e.Environment), e.Reason, e.Seconds, bit(e.BreakGlass),
			e.State, micros(e.RequestedAt), e.DecidedBy, decided, e.Review); err != nil {
			return err
		}
		by.Reason = e.Reason
		return db.auditOperators(ctx, tx, by, at, action, e.ID, nil, shownElevation(e))
	})
}

// DecideElevation approves a request, which gives role, or denies it: role is
// nil. NotFound where there is none; Conflict where it is decided; Refused where
// it was made before after.
func (db *DB) DecideElevation(ctx context.Context, id, note string, after time.Time, role *OperatorRole, by usher.By, at time.Time) error {
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		e, err := elevationOf(ctx, tx, id)
		if err != nil {
			return err
		}
		switch {
		case e.State != ElevationRequested:
			return usher.Errorf(usher.Conflict, "the request is %s already", e.State)
		case role != nil && e.RequestedAt.Before(after):
			return usher.Errorf(usher.Refused, "the request is too old to approve: it is made again where it is still needed")
		}
		before := shownElevation(e)
		e.State = ElevationDenied
		action := "elevation.deny"
		if role != nil {
			e.State, action = ElevationApproved, "elevation.approve"
			if _, err := operatorOf(ctx, tx, e.Operator); err != nil {
				return err
			}
			if err := insertOperatorRole(ctx, tx, e.Operator, *role); err != nil {
				return err
			}
		}
		if _, err := exec(ctx, tx, `UPDATE elevation SET state = $2, decided_by = $3, decided_at = $4, note = $5 WHERE id = $1`, id, e.State, by.Actor.ID, micros(at), note); err != nil {
			return err
		}
		by.Reason = note
		return db.auditOperators(ctx, tx, by, at, action, id, before, shownElevation(e))
	})
}

// ReviewElevation notes what the review of an emergency came to. NotFound where
// there is none; Conflict where none is due.
func (db *DB) ReviewElevation(ctx context.Context, id, outcome, note string, by usher.By, at time.Time) error {
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		e, err := elevationOf(ctx, tx, id)
		if err != nil {
			return err
		}
		if e.Review != ReviewPending {
			return usher.Errorf(usher.Conflict, "no review is due: it was done, or this was no emergency")
		}
		before := shownElevation(e)
		e.Review = outcome
		if _, err := exec(ctx, tx, `UPDATE elevation SET review = $2, reviewed_by = $3, reviewed_at = $4, review_note = $5 WHERE id = $1`, id, outcome, by.Actor.ID, micros(at), note); err != nil {
			return err
		}
		by.Reason = note
		return db.auditOperators(ctx, tx, by, at, "elevation.review", id, before, shownElevation(e))
	})
}

func elevationOf(ctx context.Context, tx *sql.Tx, id string) (e Elevation, err error) {
	err = scanElevation(tx.QueryRowContext(ctx, selectElevation+`WHERE id = $1`, id), &e)
	if err == sql.ErrNoRows {
		err = usher.Errorf(usher.NotFound, "no elevation %q", id)
	}
	return e, err
}
