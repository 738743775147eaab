// Package audit is the form of the audit log: what a row says, the tree of
// hashes over all rows, signed checkpoints, exports, and how each is verified.
// It is pure and knows no database, so that a small separate program can verify
// an export on another machine. It trusts nothing that it has not computed
// itself.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Entry is one row of the log: who did what, when, to what, and why. It holds no
// personal data: ids are opaque, and of names, metadata and properties it says
// only that they changed.
type Entry struct {
	N         int64           `json:"n"`               // its place, from 0, without gaps
	At        time.Time       `json:"at"`              // the server's time, in microseconds
	Clock     *time.Time      `json:"clock,omitempty"` // the environment's own clock, if it differs
	Env       string          `json:"env,omitempty"`   // "": the installation
	Actor     string          `json:"actor"`           // "key:…", "system", …
	Action    string          `json:"action"`          // "subscription.create", …
	Customer  string          `json:"customer,omitempty"`
	Object    string          `json:"object,omitempty"` // id or key of what was changed
	Reason    string          `json:"reason,omitempty"` // why, in the actor's words
	Cause     string          `json:"cause,omitempty"`  // id of the event, change set, review or job that led to it
	Before    json.RawMessage `json:"before,omitempty"` // what it was; absent: nothing
	After     json.RawMessage `json:"after,omitempty"`  // what it is now; absent: nothing
	Revision  int64           `json:"revision,omitempty"`
	RequestID string          `json:"request_id,omitempty"`
}

// Actions of rows that the log itself writes.
const (
	// ActionKey says which public key signs from this row on: {"key": …}. Row 0
	// is one.
	ActionKey = "audit.key"
	// ActionEpoch says that the database begins a new life: {"epoch": …, "by": …},
	// where by is init, restore or copy.
	ActionEpoch = "database.epoch"
	// ActionHour holds the hash of the usage ledger's rows of one hour (Hour).
	ActionHour = "usage.hour"
)

// MaxValue is the most bytes that Before and After may have. A longer value is
// replaced by its length and SHA-256.
const MaxValue = 64 << 10

// Encode returns the row as the bytes that are hashed and stored: JSON whose fields
// have one order, without spaces.
func (e *Entry) Encode() ([]byte, error) {
	c := *e
	c.At = c.At.UTC().Truncate(time.Microsecond)
	if c.Clock != nil {
		t := c.Clock.UTC().Truncate(time.Microsecond)
		c.Clock = &t
	}
	var err error
	if c.Before, err = canonical(c.Before); err != nil {
		return nil, err
	}
	if c.After, err = canonical(c.After); err != nil {
		return nil, err
	}
	return marshal(&c)
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// canonical returns a JSON value with sorted keys and no spaces; nil stays nil.
func canonical(b json.RawMessage) (json.RawMessage, error) {
	if len(b) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("audit: before or after is not JSON: %w", err)
	}
	if v == nil {
		return nil, nil
	}
	out, err := marshal(v)
	if err == nil && len(out) > MaxValue {
		sum := sha256.Sum256(out)
		out, err = marshal(map[string]any{"bytes": len(out), "sha256": hex.EncodeToString(sum[:])})
	}
	return out, err
}

// Decode reads what Encode wrote.
func Decode(leaf []byte) (e Entry, err error) {
	if err := json.Unmarshal(leaf, &e); err != nil {
		return e, fmt.Errorf("not an audit row: %w", err)
	}
	return e, nil
}

// keyOf returns the public key that a row of ActionKey announces, else "".
func (e *Entry) keyOf() string {
	var v struct {
		Key string `json:"key"`
	}
	if e.Action != ActionKey || json.Unmarshal(e.After, &v) != nil {
		return ""
	}
	return v.Key
}

// KeyEntry returns the row that announces a public key.
func KeyEntry(public string, at time.Time) Entry {
	after, _ := marshal(map[string]string{"key": public}) // cannot fail
	return Entry{At: at, Actor: "system", Action: ActionKey, Object: public, After: after}
}
