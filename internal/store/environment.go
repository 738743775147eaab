package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/usher-sh/usher"
)

// EnvironmentState is the state of an environment.
type EnvironmentState struct {
	Revision        int64     // of the newest change; 0 is none yet
	CatalogRevision int64     // of the catalogue in force; 0 is none yet
	Clock           time.Time // the test clock (S11); zero: real time
}

func scanEnvironment(row *sql.Rows, e *EnvironmentState) error {
	var clock int64
	err := row.Scan(&e.Revision, &e.CatalogRevision, &clock)
	e.Clock = clockTime(clock)
	return err
}

func clockTime(us int64) time.Time {
	if us == none {
		return time.Time{}
	}
	return fromMicros(us)
}

// Environment reads the state of env; NotFound if there is no such environment.
func (db *DB) Environment(ctx context.Context, env usher.Environment) (_ EnvironmentState, err error) {
	defer wrap(&err, "read environment")
	e, ok, err := one(ctx, db, scanEnvironment,
		`SELECT revision, catalog_revision, clock_at FROM environment WHERE env = $1`, string(env))
	if err == nil && !ok {
		err = noEnvironment(env)
	}
	return e, err
}

// Environments reads the state of all environments, at one instant.
func (db *DB) Environments(ctx context.Context) (_ map[usher.Environment]EnvironmentState, err error) {
	defer wrap(&err, "read environments")
	return environments(ctx, db)
}

func environments(ctx context.Context, r reader) (map[usher.Environment]EnvironmentState, error) {
	type row struct {
		env   usher.Environment
		state EnvironmentState
	}
	rows, err := list(ctx, r, func(rows *sql.Rows, v *row) error {
		var clock int64
		err := rows.Scan(&v.env, &v.state.Revision, &v.state.CatalogRevision, &clock)
		v.state.Clock = clockTime(clock)
		return err
	}, `SELECT env, revision, catalog_revision, clock_at FROM environment`)
	all := make(map[usher.Environment]EnvironmentState, len(rows))
	for _, r := range rows {
		all[r.env] = r.state
	}
	return all, err
}

// SetClock sets the test clock of a sandbox (S11). While the environment has no
// catalogue and never had a customer, the first call may set any time. Otherwise a
// time before the current one is a Conflict; the current one is the clock, or
// at if none is set. Production has no test clock: Refused. The change is
// recorded at the new time.
func (db *DB) SetClock(ctx context.Context, env usher.Environment, now time.Time, by usher.By, at time.Time) (err error) {
	defer wrap(&err, "set clock")
	if env == usher.Production {
		return usher.Errorf(usher.Refused, "the clock of production cannot be set")
	}
	return db.tx(ctx, func(tx *sql.Tx) error {
		revision, e, err := raise(ctx, tx, env)
		if err != nil {
			return err
		}
		earliest := e.Clock
		if earliest.IsZero() {
			var used bool
			err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM customer WHERE env = $1)`, string(env)).Scan(&used)
			if err != nil {
				return err
			}
			if used || e.CatalogRevision > 0 {
				earliest = at
			}
		}
		if now.Before(earliest) {
			return usher.Errorf(usher.Conflict,
				"%s is too early: it is %s in %s, and once there is a catalogue or a customer its clock only goes forwards",
				now.UTC().Format(time.RFC3339Nano), earliest.UTC().Format(time.RFC3339Nano), env)
		}
		if _, err := exec(ctx, tx, `UPDATE environment SET clock_at = $2 WHERE env = $1`, string(env), micros(now)); err != nil {
			return err
		}
		note := Note{By: by, Action: "clock.set", Object: "clock", At: now, After: clockShown(now)}
		if !e.Clock.IsZero() {
			note.Before = clockShown(e.Clock)
		}
		return db.record(ctx, tx, env, revision, "", note)
	})
}

func clockShown(t time.Time) json.RawMessage {
	return json.RawMessage(`{"now":"` + t.UTC().Format(time.RFC3339Nano) + `"}`)
}

// raise takes env's next revision and locks the environment until the end of the
// transaction, so that revisions become visible in their order (S06). It is the
// first statement of every change. before is the state before the change.
func raise(ctx context.Context, tx *sql.Tx, env usher.Environment) (revision int64, before EnvironmentState, err error) {
	var clock int64
	err = tx.QueryRowContext(ctx, `UPDATE environment SET revision = revision + 1 WHERE env = $1
		RETURNING revision, catalog_revision, clock_at`, string(env)).Scan(&revision, &before.CatalogRevision, &clock)
	if err == sql.ErrNoRows {
		err = noEnvironment(env)
	}
	before.Revision = revision - 1
	before.Clock = clockTime(clock)
	return revision, before, err
}

func noEnvironment(env usher.Environment) error {
	return usher.Errorf(usher.NotFound, "no environment %q", env)
}
