package store

import (
	"context"
	"database/sql"
	"time"
)

// Job is what is recorded about background work that one node at a time does
// for the whole database.
type Job struct {
	Name        string
	Node        string    // that runs it or ran it last; "" is none
	LeaseUntil  time.Time // no other node runs it before; zero: no node runs it
	DueAt       time.Time
	SucceededAt time.Time // zero: never
	FailedAt    time.Time // zero: never
	Failures    int64     // since the last success
	Error       string    // of the last failure
}

const jobColumns = `name, node, lease_until, due_at, succeeded_at, failed_at, failures, error`

func scanJob(row *sql.Rows, j *Job) error {
	var until, due, succeeded, failed int64
	err := row.Scan(&j.Name, &j.Node, &until, &due, &succeeded, &failed, &j.Failures, &j.Error)
	j.LeaseUntil, j.DueAt = fromZeroMicros(until), fromMicros(due)
	j.SucceededAt, j.FailedAt = fromZeroMicros(succeeded), fromZeroMicros(failed)
	return err
}

// TakeJob gives node the lease of a job until a time, unless the job is due after
// due or another lease lasts beyond now. It records a job that is new, due at
// first. It returns the job as it is then, and whether node has it.
func (db *DB) TakeJob(ctx context.Context, name, node string, first, due, now, until time.Time) (j Job, taken bool, err error) {
	defer wrap(&err, "take job")
	err = db.tx(ctx, func(tx *sql.Tx) error {
		if _, err := exec(ctx, tx, `INSERT INTO job (`+jobColumns+`) VALUES ($1, '', 0, $2, 0, 0, 0, '') ON CONFLICT (name) DO NOTHING`,
			name, micros(first)); err != nil {
			return err
		}
		n, err := exec(ctx, tx, `UPDATE job SET node = $2, lease_until = $3 WHERE name = $1 AND due_at <= $4 AND lease_until <= $5`,
			name, node, micros(until), micros(due), micros(now))
		if err != nil {
			return err
		}
		taken = n == 1
		j, _, err = one(ctx, inTx{tx}, scanJob, `SELECT `+jobColumns+` FROM job WHERE name = $1`, name)
		return err
	})
	return j, taken, err
}

// RenewJob makes node's lease of a job last until a time. It reports whether node
// still has the lease.
func (db *DB) RenewJob(ctx context.Context, name, node string, until time.Time) (held bool, err error) {
	defer wrap(&err, "renew job")
	err = db.tx(ctx, func(tx *sql.Tx) error {
		n, err := exec(ctx, tx, `UPDATE job SET lease_until = $3 WHERE name = $1 AND node = $2 AND lease_until <> 0`, name, node,
			micros(until))
		held = n == 1
		return err
	})
	return held, err
}

// EndJob ends j.Node's lease of a job and records when the job is due again and
// how it went. It does nothing if another node has the lease.
func (db *DB) EndJob(ctx context.Context, j Job) (err error) {
	defer wrap(&err, "end job")
	return db.tx(ctx, func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, `UPDATE job SET lease_until = 0, due_at = $3, succeeded_at = $4, failed_at = $5, failures = $6, error = $7
			WHERE name = $1 AND node = $2`,
			j.Name, j.Node, micros(j.DueAt), zeroMicros(j.SucceededAt), zeroMicros(j.FailedAt), j.Failures, j.Error)
		return err
	})
}
