package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/usher-sh/usher"
)

const selectElevation = `SELECT id, operator, role, env, reason, seconds, break_glass, state, requested_at, decided_by, decided_at,
	note, review, reviewed_by, reviewed_at, review_note FROM elevation `

func scanElevation(row *sql.Rows, e *usher.Elevation) error {
	var glass, requested, decided, reviewed int64
	err := row.Scan(&e.ID, &e.Operator, &e.Role, &e.Environment, &e.Reason, &e.Seconds, &glass, &e.State, &requested, &e.DecidedBy,
		&decided, &e.Note,
		&e.Review, &e.ReviewedBy, &reviewed, &e.ReviewNote)
	e.BreakGlass, e.RequestedAt = glass != 0, fromMicros(requested)
	if decided != 0 {
		t := fromMicros(decided)
		e.DecidedAt = &t
		if e.State == usher.ElevationApproved {
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

// Elevations reads the newest 1,000 elevations, newest first, of one operator
// ("": of all); with pending only those whose review is due.
func (db *DB) Elevations(ctx context.Context, operator string, pending bool) (_ []usher.Elevation, err error) {
	defer wrap(&err, "read elevations")
	return list(ctx, db, scanElevation, selectElevation+`WHERE ($1 = '' OR operator = $1) AND ($2 = 0 OR review = 'pending')
		ORDER BY requested_at DESC, id LIMIT 1000`,
		operator, bit(pending))
}

// Elevation reads an elevation; NotFound if there is none.
func (db *DB) Elevation(ctx context.Context, id string) (_ usher.Elevation, err error) {
	defer wrap(&err, "read elevation")
	return readElevation(ctx, db, id)
}

func readElevation(ctx context.Context, r reader, id string) (usher.Elevation, error) {
	e, ok, err := one(ctx, r, scanElevation, selectElevation+`WHERE id = $1`, id)
	if err == nil && !ok {
		err = usher.Errorf(usher.NotFound, "no elevation %q", id)
	}
	return e, err
}

// PendingReviews counts the emergencies whose review is due.
func (db *DB) PendingReviews(ctx context.Context) (_ int64, err error) {
	defer wrap(&err, "read pending reviews")
	n, _, err := one(ctx, db, scanInt, `SELECT count(*) FROM elevation WHERE review = 'pending'`)
	return n, err
}

// elevationShown is what the audit log says about an elevation.
type elevationShown struct {
	Operator    string            `json:"operator"`
	Role        string            `json:"role"`
	Environment usher.Environment `json:"environment,omitempty"`
	Seconds     int64             `json:"seconds"`
	BreakGlass  bool              `json:"break_glass,omitempty"`
	State       string            `json:"state"`
	Review      string            `json:"review,omitempty"`
}

func shownElevation(e usher.Elevation) elevationShown {
	return elevationShown{e.Operator, e.Role, e.Environment, e.Seconds, e.BreakGlass, e.State, e.Review}
}

// RequestElevation stores a request, or an emergency with the role that it gives
// at once. It returns Refused while another emergency of the operator waits for
// its review.
func (db *DB) RequestElevation(ctx context.Context, e usher.Elevation, role *usher.OperatorRole, by usher.By, at time.Time) (err error) {
	defer wrap(&err, "request elevation")
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		action := "elevation.request"
		if e.BreakGlass {
			action = "elevation.break_glass"
			var n int
			if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM elevation WHERE operator = $1 AND review = 'pending'`,
				e.Operator).Scan(&n); err != nil {
				return err
			}
			if n > 0 {
				return usher.Errorf(usher.Refused, "your last emergency (break-glass) has not been reviewed: another operator must review it first")
			}
			if err := insertOperatorRole(ctx, tx, e.Operator, *role); err != nil {
				return err
			}
		}
		var decided int64
		if e.DecidedAt != nil {
			decided = micros(*e.DecidedAt)
		}
		if _, err := exec(ctx, tx, `INSERT INTO elevation (id, operator, role, env, reason, seconds, break_glass, state, requested_at,
			decided_by, decided_at, note, review, reviewed_by, reviewed_at, review_note)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, '', $12, '', 0, '')`, e.ID, e.Operator, e.Role, string(e.Environment),
			e.Reason, e.Seconds, bit(e.BreakGlass),
			e.State, micros(e.RequestedAt), e.DecidedBy, decided, e.Review); err != nil {
			return err
		}
		by.Reason = e.Reason
		return db.auditOperators(ctx, tx, by, at, action, e.ID, nil, shownElevation(e))
	})
}

// DecideElevation approves a request, which gives role, or denies it if role is
// nil. It returns NotFound if there is no such request, Conflict if it is
// decided, and Refused if an approval comes for a request from before after.
func (db *DB) DecideElevation(ctx context.Context, id, note string, after time.Time, role *usher.OperatorRole, by usher.By,
	at time.Time) (err error) {
	defer wrap(&err, "decide elevation")
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		e, err := readElevation(ctx, inTx{tx}, id)
		if err != nil {
			return err
		}
		switch {
		case e.State != usher.ElevationRequested:
			return usher.Errorf(usher.Conflict, "the request is %s already", e.State)
		case role != nil && e.RequestedAt.Before(after):
			return usher.Errorf(usher.Refused, "the request is too old to approve: make a new one if it is still needed")
		}
		before := shownElevation(e)
		e.State = usher.ElevationDenied
		action := "elevation.deny"
		if role != nil {
			e.State, action = usher.ElevationApproved, "elevation.approve"
			if _, err := operatorRow(ctx, inTx{tx}, e.Operator); err != nil {
				return err
			}
			if err := insertOperatorRole(ctx, tx, e.Operator, *role); err != nil {
				return err
			}
		}
		if _, err := exec(ctx, tx, `UPDATE elevation SET state = $2, decided_by = $3, decided_at = $4, note = $5 WHERE id = $1`, id, e.State,
			by.Actor.ID, micros(at), note); err != nil {
			return err
		}
		by.Reason = note
		return db.auditOperators(ctx, tx, by, at, action, id, before, shownElevation(e))
	})
}

// ReviewElevation stores the outcome of the review of an emergency. It returns
// NotFound if there is no such elevation, and Conflict if no review is due.
func (db *DB) ReviewElevation(ctx context.Context, id, outcome, note string, by usher.By, at time.Time) (err error) {
	defer wrap(&err, "review elevation")
	return db.operators(ctx, at, func(tx *sql.Tx) error {
		e, err := readElevation(ctx, inTx{tx}, id)
		if err != nil {
			return err
		}
		if e.Review != usher.ReviewPending {
			return usher.Errorf(usher.Conflict, "no review is due: it was reviewed already, or it was not an emergency")
		}
		before := shownElevation(e)
		e.Review = outcome
		if _, err := exec(ctx, tx, `UPDATE elevation SET review = $2, reviewed_by = $3, reviewed_at = $4, review_note = $5 WHERE id = $1`, id,
			outcome, by.Actor.ID, micros(at), note); err != nil {
			return err
		}
		by.Reason = note
		return db.auditOperators(ctx, tx, by, at, "elevation.review", id, before, shownElevation(e))
	})
}
