package store

import (
	"context"
	"database/sql"
	"encoding/json"
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

// CreateKey stores a new key; Conflict where its id is taken. Who makes it is in
// m, whose action and object are filled in.
func (db *DB) CreateKey(ctx context.Context, k APIKey, m Meta) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, `INSERT INTO api_key (id, env, name, role, hash, created_at, expires_at, revoked_at, last_used_at, customer, no_properties)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`, k.ID, string(k.Env), k.Name, k.Role, k.Hash,
			micros(k.CreatedAt), zeroMicros(k.ExpiresAt), zeroMicros(k.RevokedAt), zeroMicros(k.LastUsedAt), k.Customer, bit(k.NoProperties))
		if duplicate(err) {
			return usher.Errorf(usher.Conflict, "there is a key %q already", k.ID)
		}
		if err != nil {
			return err
		}
		after := keyShown{Role: k.Role, Customer: k.Customer, NoProperties: k.NoProperties}
		if !k.ExpiresAt.IsZero() {
			after.ExpiresAt = &k.ExpiresAt
		}
		e := AuditEntry{Env: k.Env, Customer: k.Customer, Meta: m}
		e.Action, e.Object = "key.create", k.ID
		if e.After, err = json.Marshal(after); err != nil {
			return err
		}
		return db.audit(ctx, tx, e)
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

// keyShown is what the audit log says of a key. Its name may be a person's.
type keyShown struct {
	Role         string     `json:"role"`
	Customer     string     `json:"customer,omitempty"`
	NoProperties bool       `json:"no_properties,omitempty"`
	ExpiresAt    *time.Time `json:"expires_at,omitempty"`
}

// RevokeKey revokes a key for good at m.At; the first revocation's time stays,
// and a second one changes nothing. NotFound where there is no such key. Who
// does it is in m, whose action and object are filled in.
func (db *DB) RevokeKey(ctx context.Context, id string, m Meta) error {
	return db.tx(ctx, func(tx *sql.Tx) error {
		e := AuditEntry{Meta: m}
		e.Action, e.Object = "key.revoke", id
		var revoked int64
		err := tx.QueryRowContext(ctx, `UPDATE api_key SET last_used_at = last_used_at WHERE id = $1 RETURNING env, customer, revoked_at`, id).
			Scan(&e.Env, &e.Customer, &revoked) // the row's lock, too
		switch {
		case err == sql.ErrNoRows:
			return noKey(id)
		case err != nil || revoked != 0:
			return err
		}
		if _, err := exec(ctx, tx, `UPDATE api_key SET revoked_at = $2 WHERE id = $1`, id, micros(m.At)); err != nil {
			return err
		}
		return db.audit(ctx, tx, e)
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
