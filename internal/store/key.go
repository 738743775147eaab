package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/usher-sh/usher"
)

const selectKey = `SELECT id, env, name, role, hash, created_at, expires_at, revoked_at, last_used_at, customer, no_properties,
	rate_per_second, rate_burst, line FROM api_key WHERE `

func scanKey(row *sql.Rows, k *usher.APIKey) error {
	var created, expires, revoked, used, bare int64
	err := row.Scan(&k.ID, &k.Env, &k.Name, &k.Role, &k.Hash, &created, &expires, &revoked, &used, &k.Customer, &bare, &k.Rate.PerSecond,
		&k.Rate.Burst, &k.Line)
	k.NoProperties = bare != 0
	k.CreatedAt, k.ExpiresAt, k.RevokedAt, k.LastUsedAt = fromMicros(created), fromZeroMicros(expires), fromZeroMicros(revoked),
		fromZeroMicros(used)
	return err
}

// CreateKey stores a new key. It returns Conflict if its id is taken.
func (db *DB) CreateKey(ctx context.Context, k usher.APIKey, by usher.By, at time.Time) (err error) {
	defer wrap(&err, "create key")
	return db.tx(ctx, func(tx *sql.Tx) error {
		if err := insertKey(ctx, tx, k); err != nil {
			return err
		}
		return db.auditKey(ctx, tx, k, "key.create", by, at)
	})
}

func insertKey(ctx context.Context, tx *sql.Tx, k usher.APIKey) error {
	_, err := exec(ctx, tx, `INSERT INTO api_key (id, env, name, role, hash, created_at, expires_at, revoked_at, last_used_at, customer,
		no_properties, rate_per_second, rate_burst, line)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`, k.ID, string(k.Env), k.Name, k.Role, k.Hash,
		micros(k.CreatedAt), zeroMicros(k.ExpiresAt), zeroMicros(k.RevokedAt), zeroMicros(k.LastUsedAt), k.Customer, bit(k.NoProperties),
		k.Rate.PerSecond, k.Rate.Burst, k.Line)
	if duplicate(err) {
		return usher.Errorf(usher.Conflict, "there is a key %q already", k.ID)
	}
	return err
}

func (db *DB) auditKey(ctx context.Context, tx *sql.Tx, k usher.APIKey, action string, by usher.By, at time.Time) (err error) {
	after := keyShown{Role: k.Role, Customer: k.Customer, NoProperties: k.NoProperties, Line: k.Line}
	if k.Rate != (usher.RateLimit{}) {
		after.Rate = &k.Rate
	}
	if !k.ExpiresAt.IsZero() {
		after.ExpiresAt = &k.ExpiresAt
	}
	e := AuditEntry{Env: k.Env, Customer: k.Customer, Note: Note{By: by, Action: action, Object: k.ID, At: at}}
	if e.After, err = json.Marshal(after); err != nil {
		return err
	}
	return db.audit(ctx, tx, e)
}

// RotateKey stores next, with its own id, hash and times and everything else of
// the key id, which then ends at until at the latest. It returns NotFound if env
// has no such key, Refused if the key has ended, and Conflict if two keys of its
// line are live.
func (db *DB) RotateKey(ctx context.Context, env usher.Environment, id string, next usher.APIKey, until time.Time, by usher.By,
	at time.Time) (made usher.APIKey, err error) {
	defer wrap(&err, "rotate key")
	err = db.tx(ctx, func(tx *sql.Tx) error {
		var old usher.APIKey
		var expires, revoked, bare int64
		err := tx.QueryRowContext(ctx, `SELECT name, role, customer, no_properties, rate_per_second, rate_burst, line, expires_at, revoked_at
			FROM api_key WHERE id = $1 AND env = $2`, id, string(env)).
			Scan(&old.Name, &old.Role, &old.Customer, &bare, &old.Rate.PerSecond, &old.Rate.Burst, &old.Line, &expires, &revoked)
		if err == sql.ErrNoRows {
			return noKey(id)
		}
		if err != nil {
			return err
		}
		line := cmp.Or(old.Line, id)
		// One rotation of a line at a time; what was read above is read again.
		if _, err := exec(ctx, tx, `UPDATE api_key SET line = line WHERE id = $1`, line); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, `SELECT expires_at, revoked_at FROM api_key WHERE id = $1`, id).Scan(&expires, &revoked); err != nil {
			return err
		}
		if revoked != 0 || expires != 0 && expires <= micros(at) {
			return usher.Errorf(usher.Refused, "the key %q has ended: make a new one", id)
		}
		var live int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM api_key WHERE (line = $1 OR id = $1) AND revoked_at = 0 AND (expires_at = 0
			OR expires_at > $2)`,
			line, micros(at)).Scan(&live); err != nil {
			return err
		}
		if live >= 2 {
			return usher.Errorf(usher.Conflict, "the key %q was rotated, and both keys are still valid: "+
				"revoke one, or wait for the old one to end", id)
		}
		if ends := micros(until); expires == 0 || ends < expires {
			if _, err := exec(ctx, tx, `UPDATE api_key SET expires_at = $2 WHERE id = $1`, id, ends); err != nil {
				return err
			}
		}
		made = next
		made.Env, made.Name, made.Role, made.Customer, made.NoProperties, made.Rate, made.Line = env, old.Name, old.Role, old.Customer,
			bare != 0, old.Rate, line
		if err := insertKey(ctx, tx, made); err != nil {
			return err
		}
		return db.auditKey(ctx, tx, made, "key.rotate", by, at)
	})
	return made, err
}

// Key reads a key, even a revoked or expired one; NotFound if there is none.
func (db *DB) Key(ctx context.Context, id string) (_ usher.APIKey, err error) {
	defer wrap(&err, "read key")
	k, ok, err := one(ctx, db, scanKey, selectKey+`id = $1`, id)
	if err == nil && !ok {
		err = noKey(id)
	}
	return k, err
}

// Keys reads env's keys, revoked and expired ones too, oldest first.
func (db *DB) Keys(ctx context.Context, env usher.Environment) (_ []usher.APIKey, err error) {
	defer wrap(&err, "read keys")
	return list(ctx, db, scanKey, selectKey+`env = $1 ORDER BY created_at, id`, string(env))
}

// keyShown is what the audit log says about a key: not its name, which may be a
// person's.
type keyShown struct {
	Role         string           `json:"role"`
	Customer     string           `json:"customer,omitempty"`
	NoProperties bool             `json:"no_properties,omitempty"`
	Rate         *usher.RateLimit `json:"rate,omitempty"`
	Line         string           `json:"line,omitempty"` // the first key of its line of rotations
	ExpiresAt    *time.Time       `json:"expires_at,omitempty"`
}

// RevokeKey revokes a key permanently. A second revocation changes nothing. It
// returns NotFound if there is no such key.
func (db *DB) RevokeKey(ctx context.Context, id string, by usher.By, at time.Time) (err error) {
	defer wrap(&err, "revoke key")
	return db.tx(ctx, func(tx *sql.Tx) error {
		e := AuditEntry{Note: Note{By: by, Action: "key.revoke", Object: id, At: at}}
		var revoked int64
		err := tx.QueryRowContext(ctx, `UPDATE api_key SET last_used_at = last_used_at WHERE id = $1 RETURNING env, customer, revoked_at`, id).
			Scan(&e.Env, &e.Customer, &revoked) // the row's lock, too
		switch {
		case err == sql.ErrNoRows:
			return noKey(id)
		case err != nil || revoked != 0:
			return err
		}
		if _, err := exec(ctx, tx, `UPDATE api_key SET revoked_at = $2 WHERE id = $1`, id, micros(at)); err != nil {
			return err
		}
		return db.audit(ctx, tx, e)
	})
}

// TouchKeys stores when keys were last used; an older time changes nothing.
// Unknown ids are ignored.
func (db *DB) TouchKeys(ctx context.Context, used map[string]time.Time) (err error) {
	defer wrap(&err, "touch keys")
	if len(used) == 0 {
		return nil
	}
	return db.tx(ctx, func(tx *sql.Tx) error {
		for _, id := range slices.Sorted(maps.Keys(used)) { // sorted: nodes that touch the same keys cannot deadlock
			if _, err := exec(ctx, tx, `UPDATE api_key SET last_used_at = $2 WHERE id = $1 AND last_used_at < $2`, id,
				micros(used[id])); err != nil {
				return err
			}
		}
		return nil
	})
}

func noKey(id string) error { return usher.Errorf(usher.NotFound, "no key %q", id) }

// bit returns the stored form of a flag.
func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
