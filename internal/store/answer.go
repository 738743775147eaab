package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/usher-sh/usher"
)

// StoredAnswer is the answer to a change that came with an idempotency key (S13).
// An environment has one namespace of keys, which changes and takes share.
type StoredAnswer struct {
	Key      string
	Route    string // what was asked for, as the caller names it
	BodyHash []byte // of everything that must be the same in a repeated request; never empty
	Status   int    // the caller's number for success, from 200 to 299
	Body     []byte // what the caller answered
	// BodyAt makes Body from the change's revision, which is known only once the
	// change is applied. nil: Body is used.
	BodyAt   func(revision int64) ([]byte, error)
	Customer string
	Feature  string
	At       time.Time
}

// Answer reads the stored answer of key; nil if there is none. For the key of a
// take, Status is 0 and Body is empty.
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

// answerMark begins op.answer if it is a StoredAnswer: two bytes of status and the
// body follow. No answer of a take begins with it.
const answerMark = "http"

// keyFree returns ErrKeyTaken if a's key has an answer. The lock on the
// environment keeps other changes out; storeAnswer notices a take that got the
// key since.
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
		return fmt.Errorf("store: key %q: a stored answer needs a status from 200 to 299 and a body hash; got status %d", a.Key, a.Status)
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
