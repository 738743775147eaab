package store

import (
	"context"
	"database/sql"
	"maps"
	"slices"
	"time"

	"github.com/usher-sh/usher"
)

// APIKey is a key's record. The secret is not in it.
type APIKey struct {
	ID         string
	Env        usher.Environment
	Name       string
	Role       string
	Hash       []byte // SHA-256 of the secret
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	RevokedAt  time.Time // zero: not
	LastUsedAt time.Time // zero: never

	Customer     string // the key's own; "" is none
	NoProperties bool   // it may not send properties of members and resources
}

const selectKey = `SELECT id, env, name, role, hash, created_at, expires_at, revoked_at, last_used_at, customer, no_properties FROM api_key WHERE `

func scanKey(row *sql.Rows, k *APIKey) error {
	var created, expires, revoked, used, bare int64
	err := row.Scan(&k.ID, &k.Env, &k.Name, &k.Role, &k.Hash, &created, &expires, &revoked, &used, &k.Customer, &bare)
	k.NoProperties = bare != 0
	k.CreatedAt, k.ExpiresAt, k.RevokedAt, k.LastUsedAt = fromMicros(created), fromZeroMicros(expires), fromZeroMicros(revoked), fromZeroMicros(used)
	return err
}

// CreateKey stores a new key; Conflict where its id is taken.
func (db *DB) CreateKey(ctx context.Context, k APIKey) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, `INSERT INTO api_key (id, env, name, role, hash, created_at, expires_at, revoked_at, last_used_at, customer, no_properties)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`, k.ID, string(k.Env), k.Name, k.Role, k.Hash,
			micros(k.CreatedAt), zeroMicros(k.ExpiresAt), zeroMicros(k.RevokedAt), zeroMicros(k.LastUsedAt), k.Customer, bit(k.NoProperties))
		if duplicate(err) {
			return usher.Errorf(usher.Conflict, "there is a key %q already", k.ID)
		}
		return err
	})
}

// Key reads a key, revoked and expired ones too; NotFound where there is none.
func (db *DB) Key(ctx context.Context, id string) (APIKey, error) {
	k, ok, err := one(ctx, db, scanKey, selectKey+`id = $1`, id)
	if err == nil && !ok {
		err = noKey(id)
	}
	return k, err
}

// Keys reads env's keys, revoked and expired ones too, oldest first.
func (db *DB) Keys(ctx context.Context, env usher.Environment) ([]APIKey, error) {
	return list(ctx, db, scanKey, selectKey+`env = $1 ORDER BY created_at, id`, string(env))
}

// RevokeKey revokes a key for good; the first revocation's time stays. NotFound
// where there is no such key.
func (db *DB) RevokeKey(ctx context.Context, id string, at time.Time) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		n, err := exec(ctx, tx, `UPDATE api_key SET revoked_at = CASE WHEN revoked_at = 0 THEN $2 ELSE revoked_at END WHERE id = $1`, id, micros(at))
		if err == nil && n == 0 {
			err = noKey(id)
		}
		return err
	})
}

// TouchKeys notes when keys were last used, never backwards. Unknown ids are
// ignored.
func (db *DB) TouchKeys(ctx context.Context, used map[string]time.Time) error {
	if len(used) == 0 {
		return nil
	}
	return db.tx(ctx, func(tx *sql.Tx) error {
		for _, id := range slices.Sorted(maps.Keys(used)) { // sorted: nodes that touch the same keys cannot deadlock
			if _, err := exec(ctx, tx, `UPDATE api_key SET last_used_at = $2 WHERE id = $1 AND last_used_at < $2`, id, micros(used[id])); err != nil {
				return err
			}
		}
		return nil
	})
}

func noKey(id string) error { return usher.Errorf(usher.NotFound, "no key %q", id) }

// bit is how a flag is stored.
func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
