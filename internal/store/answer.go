package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/usher-sh/usher"
)

// StoredAnswer is the answer of a management call that came with an idempotency
// key (S13). Keys are one namespace per environment, shared with takes.
type StoredAnswer struct {
	Key      string
	Route    string // "POST /v1/…"
	BodyHash []byte // of what makes two requests the same; never empty
	Status   int    // HTTP status, 2xx
	Body     []byte // of the response
	// BodyAt, where it is set, makes Body of the change's revision, which is
	// known only once the change is applied.
	BodyAt   func(revision int64) ([]byte, error)
	Customer string
	Feature  string
	At       time.Time
}

// Answer reads the stored answer of key; nil where there is none. Where Route is
// that of a take, the answer is not an HTTP one: Status is 0 and Body is empty.
func (db *DB) Answer(ctx context.Context, env usher.Environment, key string) (_ *StoredAnswer, err error) {
	defer wrap(&err, "read answer")
	a, ok, err := one(ctx, db, func(row *sql.Rows, a *StoredAnswer) error {
		var at int64
		var answer []byte
		if err := row.Scan(&a.Key, &a.Route, &a.BodyHash, &a.Customer, &a.Feature, &at, &answer); err != nil {
			return err
		}
		a.At = fromMicros(at)
		if len(answer) >= len(answerMark)+2 && string(answer[:len(answerMark)]) == answerMark {
			a.Status = int(binary.BigEndian.Uint16(answer[len(answerMark):]))
			a.Body = answer[len(answerMark)+2:]
		}
		return nil
	}, `SELECT key, route, body_hash, customer, feature, at, answer FROM op WHERE key = $1 AND env = $2`, key, string(env))
	if err != nil || !ok {
		return nil, err
	}
	return &a, nil
}

// answerMark begins op.answer where it is an HTTP answer: then two bytes of
// status, then the body.
const answerMark = "http"

// keyFree returns ErrKeyTaken where a has a key with an answer. The lock on the
// environment keeps other changes away; storeAnswer catches a take between.
func keyFree(ctx context.Context, tx *sql.Tx, env usher.Environment, a *StoredAnswer) error {
	if a == nil {
		return nil
	}
	var taken bool
	err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM op WHERE key = $1 AND env = $2)`, a.Key, string(env)).Scan(&taken)
	if err == nil && taken {
		err = ErrKeyTaken
	}
	return err
}

func storeAnswer(ctx context.Context, tx *sql.Tx, env usher.Environment, revision int64, a *StoredAnswer) error {
	if a == nil {
		return nil
	}
	if a.Status < 200 || a.Status > 299 || len(a.BodyHash) == 0 {
		return fmt.Errorf("store: key %q: only 2xx answers with a body hash are stored, not %d", a.Key, a.Status)
	}
	body := a.Body
	if a.BodyAt != nil {
		var err error
		if body, err = a.BodyAt(revision); err != nil {
			return err
		}
	}
	answer := binary.BigEndian.AppendUint16([]byte(answerMark), uint16(a.Status))
	n, err := exec(ctx, tx, `INSERT INTO op (key, env, route, body_hash, customer, feature, at, amount, answer)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8) ON CONFLICT (key, env) DO NOTHING`,
		a.Key, string(env), a.Route, a.BodyHash, a.Customer, a.Feature, micros(a.At), append(answer, body...))
	if err == nil && n == 0 {
		err = ErrKeyTaken
	}
	return err
}
