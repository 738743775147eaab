package customers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// Call is a call that changes a customer, as its idempotency key sees it (S13).
type Call struct {
	Key    string // the idempotency key; "": none, each call is a new one
	Name   string // of the operation
	Object string // the id of what it is about
	Body   any    // what was asked; two calls are the same if its JSON means the same
	Status int    // the caller's number for success, from 200 to 299; it is stored with the answer
}

// Once runs do, which makes one change under the guard that it gets. If the call
// has a key, the first answer is stored in the change's transaction; the same call
// again gets that answer and replayed, and do does not run. It returns KeyReused
// if the key came with another call before.
func Once[T any](ctx context.Context, s *Service, env usher.Environment, guard Guard, call Call, do func(Guard) (T, error)) (
	answer T, replayed bool, err error) {
	if call.Key == "" {
		answer, err = do(guard)
		return answer, false, err
	}
	hash, err := call.hash()
	if err != nil {
		return answer, false, err
	}
	for {
		stored, err := s.cfg.DB.Answer(ctx, env, call.Key)
		if err != nil {
			return answer, false, err
		}
		if stored != nil {
			if stored.Route != call.Name || !bytes.Equal(stored.BodyHash, hash) {
				return answer, false, usher.Errorf(usher.KeyReused, "the idempotency key %q came with another request before", call.Key)
			}
			return answer, true, json.Unmarshal(stored.Body, &answer)
		}
		guard.answer = &store.StoredAnswer{Key: call.Key, Route: call.Name, BodyHash: hash, Status: call.Status}
		answer, err = do(guard)
		if !errors.Is(err, store.ErrKeyTaken) {
			return answer, false, err
		}
		// A call with the same key was faster: its answer is stored now.
	}
}

// hash hashes what makes two calls the same. The order of names does not count,
// nor does how a number or a time is written: 1.0 is 1.
func (c *Call) hash() ([]byte, error) {
	b, err := json.Marshal(c.Body)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	// A float64 would make different large numbers equal.
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if b, err = json.Marshal([]any{c.Name, c.Object, canonical(v)}); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	return sum[:], nil
}

// canonical writes each number and each time within a JSON value in one way.
func canonical(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = canonical(v[k])
		}
	case []any:
		for i := range v {
			v[i] = canonical(v[i])
		}
	case json.Number:
		return canonical(v.String())
	case string:
		if n, err := usher.Number(v).Units(usher.MaxPrecision); err == nil {
			return usher.FormatQuantity(n, usher.MaxPrecision)
		}
		if t, err := usher.ParseTime(v); err == nil {
			return t
		}
	}
	return v
}
