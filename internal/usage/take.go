package usage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/ledger"
	"github.com/usher-sh/usher/internal/store"
)

// take is one caller's operation on its way through the writer: a consume, a
// reservation or its end, a seat, a correction, or a change of the directory.
type take struct {
	env      usher.Environment
	call     string // one of the ledger's calls, callSeat or callDirect: a key serves one call
	key      string // the idempotency key; "": the operation is idempotent by itself and no answer is kept
	customer string
	feature  string
	amount   int64        // smallest units; a denial is counted with it
	hash     []byte       // bodyHash: a retry has the same
	asked    usher.Number // the amount as asked for, of a consume or a reservation
	book     *engine.Book // the catalogue by which asked was read

	// decide decides in the batch's transaction. It may run several times, so it
	// keeps nothing of an earlier run. An error with a code that blames the caller
	// ends this take alone, and nothing is stored. errTaken runs the batch again
	// after the stored answer has been read.
	decide  func(*batchRun, *world) (engine.Effect, error)
	directs bool // it changes the customer's directory, and with it the environment's revision
	// reused returns the error for a key that has another call's answer; nil is the
	// usual one.
	reused func(store.Op) error

	locked   store.Holder // another node has locked this customer, so there is no result yet; zero: nobody has
	first    *take        // the take of the batch with the same key, which goes first; nil: this one
	at       time.Time    // when it was decided
	posting  ledger.Posting
	stored   store.Op // as the batch stored it
	decision usher.Decision
	err      error
}

func (t *take) opKey() store.OpKey   { return store.OpKey{Env: t.env, Key: t.key} }
func (t *take) holder() store.Holder { return store.Holder{Env: t.env, Customer: t.customer} }

// take sends an operation through the writer and returns its answer.
func (u *Usage) take(ctx context.Context, t *take) (usher.Decision, error) {
	if err := u.submit(ctx, &request{take: t}); err != nil {
		return usher.Decision{}, err
	}
	return t.decision, t.err
}

// bodyHash hashes what makes two calls the same (S13): the call and all that was
// asked, except min_revision. Each part counts with its length, so that no two lists
// of parts are the same bytes.
func bodyHash(parts ...string) []byte {
	h := sha256.New()
	var n [8]byte
	for _, s := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	return h.Sum(nil)[:16]
}

// row returns the take as it is stored.
func (t *take) row() store.Op {
	return store.Op{Env: t.env, Key: t.key, Route: t.call, BodyHash: t.hash, Customer: t.customer, Feature: t.feature,
		At: t.at, Amount: t.amount, Answer: ledger.EncodeAnswer(&t.decision, &t.posting, t.at)}
}

// answer gives a take the answer that is stored under its key, or an error if the
// key was used for another call.
func (t *take) answer(op store.Op) {
	t.err, t.locked = nil, store.Holder{} // they may be left from an earlier attempt at the batch
	if op.Route != t.call || !bytes.Equal(op.BodyHash, t.hash) {
		if t.reused != nil {
			t.err = t.reused(op)
			return
		}
		t.err = usher.Errorf(usher.KeyReused, "the idempotency key %q was used for another call (%s, at %s); use a new key for each operation",
			t.key, op.Route, op.At.Format(time.RFC3339))
		return
	}
	d, _, err := ledger.DecodeAnswer(op.Answer, op.At)
	if err != nil {
		t.err = err
		return
	}
	d.Customer, d.Feature, d.Replayed = op.Customer, op.Feature, true
	t.decision = d
}
