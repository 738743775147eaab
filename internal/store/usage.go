package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/engine"
)

// UsageTx is one batch of usage: the reads, under locks, and the writes of Usage's
// function. It is valid only inside that function.
type UsageTx struct {
	db  *DB
	tx  *sql.Tx
	ctx context.Context

	wanted map[statement]string // SQLite: statements to keep after the batch
}

// Usage runs fn in one transaction and commits what it wrote (S12). After a conflict
// with another transaction, fn runs again from the start, so it must not keep state
// of an earlier run. If fn returns an error, Usage rolls back and returns the error
// as it is.
func (db *DB) Usage(ctx context.Context, fn func(*UsageTx) error) (err error) {
	defer wrap(&err, "write usage")
	return db.usage(ctx, db.takes, func(u *UsageTx) error { return fromOutside(fn(u)) })
}

// Writable returns an Unavailable error if no use can be written now: the database is
// away, read-only, or locked against writers. It writes nothing, and notices no full
// disk. On SQLite it returns nil while another batch is written.
func (db *DB) Writable(ctx context.Context) (err error) {
	defer wrap(&err, "writable")
	if db.dialect == SQLite {
		if !db.writing.TryLock() {
			return nil
		}
		defer db.writing.Unlock()
	}
	return db.once(ctx, db.takes, func(tx *sql.Tx) error {
		if db.dialect == SQLite {
			return nil // to begin takes the lock of writers
		}
		_, err := tx.ExecContext(ctx, `SELECT 1 FROM customer WHERE false FOR UPDATE`)
		return err
	})
}

// Locked reports whether an error means that another transaction kept a lock for
// longer than this one waits. Nothing was applied.
func Locked(err error) bool { return postgresCode(err) == "55P03" }

func (db *DB) usage(ctx context.Context, pool *sql.DB, fn func(*UsageTx) error) error {
	u := &UsageTx{db: db, ctx: ctx}
	if db.dialect == SQLite {
		db.writing.Lock()
		defer db.writing.Unlock()
	}
	err := db.txOn(ctx, pool, func(tx *sql.Tx) error {
		u.tx = tx
		return fn(u)
	})
	if err == nil && len(u.wanted) > 0 {
		db.keep(ctx, u.wanted)
	}
	return err
}

// Holder is one customer of one environment.
type Holder struct {
	Env      usher.Environment
	Customer string
}

// Head is the revisions of a customer and of its environment's catalogue. The zero
// Head is a customer that does not exist.
type Head struct {
	Revision        int64 // of the customer's newest change
	CatalogRevision int64
	Clock           time.Time // a sandbox's test clock; zero: real time
	Deleted         bool

	found bool // the customer exists
}

// Lock locks the customers' use against other nodes until the batch ends, and reads
// their heads. If another node has locked one of them, it waits: at most 200 ms for
// each, then the error is Locked. All nodes lock in the same order, so that they cannot
// deadlock. On SQLite, where there are no other writers, it returns nil if no
// environment has changed since the revisions in known (nil: none).
func (u *UsageTx) Lock(holders []Holder, known map[usher.Environment]int64) (_ map[Holder]Head, err error) {
	defer wrap(&err, "lock")
	return u.lock(holders, known, u.db.forUpdate())
}

// LockFree locks as Lock does those customers that no other node has locked, and
// returns the others. It waits for none.
func (u *UsageTx) LockFree(holders []Holder, known map[usher.Environment]int64) (_ map[Holder]Head, locked []Holder, err error) {
	defer wrap(&err, "lock free")
	if u.db.dialect == SQLite {
		heads, err := u.lock(holders, known, "")
		return heads, nil, err
	}
	heads, err := u.lock(holders, known, " FOR UPDATE SKIP LOCKED")
	if err != nil {
		return nil, nil, err
	}
	// A customer without a row does not exist, or another node has locked it.
	var args []any
	for _, h := range holders {
		if !heads[h].found {
			args = append(args, string(h.Env), h.Customer)
		}
	}
	if len(args) == 0 {
		return heads, nil, nil
	}
	err = u.among(`SELECT env, id FROM customer WHERE (env, id) IN `, "tt", args, ``, func(rows *sql.Rows) error {
		var h Holder
		if err := rows.Scan(&h.Env, &h.Customer); err != nil {
			return err
		}
		locked = append(locked, h)
		delete(heads, h)
		return nil
	})
	return heads, locked, err
}

func (u *UsageTx) lock(holders []Holder, known map[usher.Environment]int64, how string) (_ map[Holder]Head, err error) {
	// One process owns the file, so the snapshots in memory are right unless a change has
	// raised a revision. That is one small read for each batch instead of one row for each
	// customer.
	if u.db.dialect == SQLite && known != nil {
		changed := false
		rows, err := u.prepared("revisions", 1, func() string { return `SELECT env, revision FROM environment` }).query(nil)
		if err != nil {
			return nil, err
		}
		err = eachRow(rows, func() error {
			var env usher.Environment
			var revision int64
			err := rows.Scan(&env, &revision)
			if n, ok := known[env]; ok && n != revision {
				changed = true
			}
			return err
		})
		if err != nil || !changed {
			return nil, err
		}
	}
	// The order of locks is the same on all nodes.
	holders = slices.Clone(holders)
	slices.SortFunc(holders, func(x, y Holder) int {
		if c := strings.Compare(string(x.Env), string(y.Env)); c != 0 {
			return c
		}
		return strings.Compare(x.Customer, y.Customer)
	})
	heads := make(map[Holder]Head, len(holders))
	args := make([]any, 0, 2*len(holders))
	for _, h := range holders {
		args = append(args, string(h.Env), h.Customer)
	}
	err = u.among(`SELECT env, id, revision, deleted_at FROM customer WHERE (env, id) IN `, "tt", args, `
		ORDER BY env, id`+how, func(rows *sql.Rows) error {
		var env, id string
		h := Head{found: true}
		var deleted int64
		err := rows.Scan(&env, &id, &h.Revision, &deleted)
		h.Deleted = deleted != 0
		heads[Holder{usher.Environment(env), id}] = h
		return err
	})
	if err != nil {
		return nil, err
	}
	// After the locks, so that a catalogue applied before them is seen.
	now, err := environments(u.ctx, inTx{u.tx})
	if err != nil {
		return nil, err
	}
	for _, h := range holders {
		if e, ok := now[h.Env]; ok {
			head := heads[h]
			head.CatalogRevision, head.Clock = e.CatalogRevision, e.Clock
			heads[h] = head
		}
	}
	return heads, nil
}

// Buckets reads, for each key of each holder, the bucket of that feature and clock
// that started last at or before the key's start. Keys without one add nothing.
func (u *UsageTx) Buckets(keys map[Holder][]engine.BucketKey) (_ map[Holder][]engine.Bucket, err error) {
	defer wrap(&err, "read buckets")
	all := make(map[Holder][]engine.Bucket, len(keys))
	var args []any
	for h, list := range keys {
		for _, k := range list {
			args = append(args, h.Customer, string(h.Env), k.Feature, k.Clock, k.Start)
		}
	}
	if len(args) == 0 {
		return all, nil
	}
	scan := func(rows *sql.Rows) error {
		var h Holder
		var env string
		var b engine.Bucket
		var unlimited int64
		err := rows.Scan(&h.Customer, &env, &b.Feature, &b.Clock, &b.Start, &b.End, &unlimited, &b.Limit, &b.Opening, &b.Used,
			&b.Reserved, &b.Overage, &b.Excess, &b.At)
		h.Env, b.Unlimited = usher.Environment(env), unlimited == 1
		all[h] = append(all[h], b)
		return err
	}
	if u.db.dialect == Postgres {
		rows, err := u.tx.QueryContext(u.ctx, `SELECT b.customer, b.env, b.feature, b.clock, b.start_at, b.end_at, b.unlimited, b.lim,
			b.opening, b.used, b.reserved, b.overage, b.excess, b.at
			FROM `+unnest("tttti", 1)+` AS k (customer, env, feature, clock, start_at) CROSS JOIN LATERAL (SELECT * FROM bucket t
			WHERE t.customer = k.customer AND t.env = k.env AND t.feature = k.feature AND t.clock = k.clock AND t.start_at <= k.start_at
			ORDER BY t.start_at DESC LIMIT 1) AS b`, columns("tttti", args)...)
		if err != nil {
			return nil, err
		}
		return all, eachRow(rows, func() error { return scan(rows) })
	}
	for key := range slices.Chunk(args, 5) {
		rows, err := u.prepared("bucket", 1, func() string {
			return `SELECT customer, env, ` + bucketColumns + ` FROM bucket WHERE customer = ? AND env = ? AND feature = ? AND clock = ?
				AND start_at <= ? ORDER BY start_at DESC LIMIT 1`
		}).query(key)
		if err != nil {
			return nil, err
		}
		if err := eachRow(rows, func() error { return scan(rows) }); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// UseByClock reads as DB.UseByClock does, in the transaction.
func (u *UsageTx) UseByClock(ctx context.Context, env usher.Environment, customer, feature string, from,
	until time.Time) (_ map[string]int64, err error) {
	defer wrap(&err, "read use by clock")
	return useByClock(ctx, inTx{u.tx}, env, customer, feature, from, until)
}

// Op is one stored take: idempotency record and ledger in one (S13).
type Op struct {
	Env      usher.Environment
	Key      string
	Route    string
	BodyHash []byte
	Customer string
	Feature  string
	At       time.Time
	Amount   int64
	Answer   []byte
}

// InsertOps stores takes, sorted by key so that nodes cannot deadlock, and returns
// how many were new. Fewer than given means that some key already has an answer:
// the batch must be rolled back.
func (u *UsageTx) InsertOps(ops []Op) (_ int64, err error) {
	defer wrap(&err, "insert ops")
	slices.SortFunc(ops, func(x, y Op) int {
		if c := strings.Compare(x.Key, y.Key); c != 0 {
			return c
		}
		return strings.Compare(string(x.Env), string(y.Env))
	})
	args := make([]any, 0, 9*len(ops))
	for i := range ops {
		o := &ops[i]
		args = append(args, o.Key, string(o.Env), o.Route, o.BodyHash, o.Customer, o.Feature, micros(o.At), o.Amount, o.Answer)
	}
	return u.insert(`op (key, env, route, body_hash, customer, feature, at, amount, answer)`, "tttbttiib", args,
		`ON CONFLICT (key, env) DO NOTHING`)
}

// OpKey identifies a stored take.
type OpKey struct {
	Env usher.Environment
	Key string
}

const opsOf = `SELECT env, key, route, body_hash, customer, feature, at, amount, answer FROM op WHERE (key, env) IN `

func scanOp(rows *sql.Rows, found map[OpKey]Op) error {
	var o Op
	var env string
	var at int64
	err := rows.Scan(&env, &o.Key, &o.Route, &o.BodyHash, &o.Customer, &o.Feature, &at, &o.Amount, &o.Answer)
	o.Env, o.At = usher.Environment(env), fromMicros(at)
	found[OpKey{o.Env, o.Key}] = o
	return err
}

// Ops reads the stored takes of keys; a key without one has no entry. Answers of
// changes under the same keys are among them.
func (db *DB) Ops(ctx context.Context, keys []OpKey) (_ map[OpKey]Op, err error) {
	defer wrap(&err, "read ops")
	return db.ops(ctx, keys)
}

func (db *DB) ops(ctx context.Context, keys []OpKey) (map[OpKey]Op, error) {
	found := map[OpKey]Op{}
	for part := range slices.Chunk(keys, 256) {
		args := make([]any, 0, 2*len(part))
		for _, k := range part {
			args = append(args, k.Key, string(k.Env))
		}
		rows, err := db.w.QueryContext(ctx, opsOf+`(VALUES `+db.rows(len(part), 2)+`)`, args...)
		if err != nil {
			return nil, err
		}
		if err := eachRow(rows, func() error { return scanOp(rows, found) }); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// Ops reads as DB.Ops does, in the transaction.
func (u *UsageTx) Ops(keys []OpKey) (_ map[OpKey]Op, err error) {
	defer wrap(&err, "read ops")
	found := map[OpKey]Op{}
	args := make([]any, 0, 2*len(keys))
	for _, k := range keys {
		args = append(args, k.Key, string(k.Env))
	}
	return found, u.among(opsOf, "tt", args, ``, func(rows *sql.Rows) error { return scanOp(rows, found) })
}

// EventRow is one stored event.
type EventRow struct {
	Env        usher.Environment
	ID, Source string
	Customer   string
	Type       string
	At         time.Time
	ReceivedAt time.Time
	Hash       []byte
	Data       string
	Entries    []byte
}

// EventKey identifies an event of an environment for ever (S17).
type EventKey struct {
	Env        usher.Environment
	ID, Source string
}

// EventHashes reads the content hashes of those events that are stored.
func (u *UsageTx) EventHashes(keys []EventKey) (_ map[EventKey][]byte, err error) {
	defer wrap(&err, "read event hashes")
	found := map[EventKey][]byte{}
	args := make([]any, 0, 3*len(keys))
	for _, k := range keys {
		args = append(args, k.ID, k.Source, string(k.Env))
	}
	err = u.among(`SELECT env, id, source, hash FROM event WHERE (id, source, env) IN `, "ttt", args, ``, func(rows *sql.Rows) error {
		var k EventKey
		var env string
		var hash []byte
		err := rows.Scan(&env, &k.ID, &k.Source, &hash)
		k.Env = usher.Environment(env)
		found[k] = hash
		return err
	})
	return found, err
}

// InsertEvents stores events and returns how many were new. Fewer than given means
// that another node stored one of them: the batch must run again.
func (u *UsageTx) InsertEvents(events []EventRow) (_ int64, err error) {
	defer wrap(&err, "insert events")
	slices.SortFunc(events, func(x, y EventRow) int {
		if c := strings.Compare(x.ID, y.ID); c != 0 {
			return c
		}
		if c := strings.Compare(x.Source, y.Source); c != 0 {
			return c
		}
		return strings.Compare(string(x.Env), string(y.Env))
	})
	args := make([]any, 0, 10*len(events))
	for i := range events {
		e := &events[i]
		args = append(args, e.ID, e.Source, string(e.Env), e.Customer, e.Type, micros(e.At), micros(e.ReceivedAt), e.Hash, e.Data,
			e.Entries)
	}
	return u.insert(`event (id, source, env, customer, type, at, received_at, hash, data, entries)`, "tttttiibtb", args,
		`ON CONFLICT (id, source, env) DO NOTHING`)
}

// PutBuckets stores customers' buckets in place of what they were.
func (u *UsageTx) PutBuckets(buckets map[Holder][]engine.Bucket) (err error) {
	defer wrap(&err, "put buckets")
	var args []any
	for h, list := range buckets {
		for i := range list {
			b := &list[i]
			unlimited := int64(0)
			if b.Unlimited {
				unlimited = 1
			}
			args = append(args, h.Customer, string(h.Env), b.Feature, b.Clock, b.Start, b.End, unlimited, b.Limit, b.Opening, b.Used,
				b.Reserved, b.Overage, b.Excess, b.At)
		}
	}
	_, err = u.insert(`bucket (customer, env, `+bucketColumns+`)`, "ttttiiiiiiiiii", args, `
		ON CONFLICT (customer, env, feature, clock, start_at) DO UPDATE SET end_at = excluded.end_at, unlimited = excluded.unlimited,
			lim = excluded.lim, opening = excluded.opening, used = excluded.used, reserved = excluded.reserved,
			overage = excluded.overage, excess = excluded.excess, at = excluded.at`)
	if err != nil {
		return fmt.Errorf("buckets: %w", err)
	}
	return nil
}

// Merge is what happens to a span that already has a rollup.
type Merge string

// The merges: add for totals, max keeps the greater value, last the later one. Set
// replaces the value, for repairs.
const (
	MergeAdd  Merge = "add"
	MergeMax  Merge = "max"
	MergeLast Merge = "last"
	MergeSet  Merge = "set"
)

// mergeSQL is what each merge does to a row, by table.
var mergeSQL = map[string]map[Merge]string{"rollup": mergers("rollup"), "rollup_dim": mergers("rollup_dim")}

func mergers(table string) map[Merge]string {
	used, at := table+".used", table+".at"
	return map[Merge]string{
		MergeAdd: `used = ` + used + ` + excluded.used`,
		MergeMax: `used = CASE WHEN excluded.used > ` + used + ` THEN excluded.used ELSE ` + used + ` END`,
		MergeLast: `used = CASE WHEN excluded.at >= ` + at + ` THEN excluded.used ELSE ` + used + ` END,
			at = CASE WHEN excluded.at >= ` + at + ` THEN excluded.at ELSE ` + at + ` END`,
		MergeSet: `used = excluded.used, at = excluded.at`,
	}
}

// RollupKey identifies one span of use.
type RollupKey struct {
	Holder
	Feature   string
	Dimension string // "": by clock
	Value     string // the clock, or the dimension's value
	Grain     Grain
	Start     int64 // of the span, in µs
}

// RollupValue is a value to merge into a span.
type RollupValue struct {
	Used int64
	At   int64 // event time of a gauge's value in µs; else 0
}

// PutRollups merges values into spans.
func (u *UsageTx) PutRollups(m Merge, rollups map[RollupKey]RollupValue) (err error) {
	defer wrap(&err, "put rollups")
	keys := make([]RollupKey, 0, len(rollups))
	for k := range rollups {
		keys = append(keys, k)
	}
	// Sorted, so that nodes that write the same rows lock them in the same order and cannot
	// deadlock. Those by clock, which have no dimension, come first.
	slices.SortFunc(keys, func(x, y RollupKey) int {
		return cmp.Or(strings.Compare(x.Dimension, y.Dimension), strings.Compare(x.Customer, y.Customer),
			strings.Compare(string(x.Env), string(y.Env)),
			strings.Compare(x.Feature, y.Feature), cmp.Compare(x.Grain, y.Grain), cmp.Compare(x.Start, y.Start),
			strings.Compare(x.Value, y.Value))
	})
	byClock := keys
	if i := slices.IndexFunc(keys, func(k RollupKey) bool { return k.Dimension != "" }); i >= 0 {
		byClock = keys[:i]
	}
	args := make([]any, 0, 8*len(byClock))
	for _, k := range byClock {
		args = append(args, k.Customer, string(k.Env), k.Feature, int64(k.Grain), k.Start, k.Value, rollups[k].Used, rollups[k].At)
	}
	if _, err := u.insert(`rollup (customer, env, feature, grain, start_at, clock, used, at)`, "tttiitii", args,
		` ON CONFLICT (customer, env, feature, grain, start_at, clock) DO UPDATE SET `+mergeSQL["rollup"][m]); err != nil {
		return err
	}
	rest := keys[len(byClock):]
	args = make([]any, 0, 9*len(rest))
	for _, k := range rest {
		args = append(args, k.Customer, string(k.Env), k.Feature, k.Dimension, int64(k.Grain), k.Value, k.Start, rollups[k].Used,
			rollups[k].At)
	}
	_, err = u.insert(`rollup_dim (customer, env, feature, dimension, grain, value, start_at, used, at)`, "ttttitiii", args,
		` ON CONFLICT (customer, env, feature, dimension, grain, start_at, value) DO UPDATE SET `+mergeSQL["rollup_dim"][m])
	return err
}

// SeenWithin reports whether a unique meter saw value in the minutes of
// [from, until) in µs.
func (u *UsageTx) SeenWithin(h Holder, feature, value string, from, until int64) (_ bool, err error) {
	defer wrap(&err, "read seen within")
	var n int
	err = u.tx.QueryRowContext(u.ctx, `SELECT count(*) FROM (SELECT 1 FROM seen WHERE customer = $1 AND env = $2 AND feature = $3
		AND value = $4 AND minute_at >= $5 AND minute_at < $6 LIMIT 1) AS s`,
		h.Customer, string(h.Env), feature, value, from, until).Scan(&n)
	return n > 0, err
}

// See stores that a unique meter saw value in a minute, which is its start in µs.
func (u *UsageTx) See(h Holder, feature, value string, minute int64) (err error) {
	defer wrap(&err, "see")
	_, err = exec(u.ctx, u.tx, `INSERT INTO seen (customer, env, feature, value, minute_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT DO NOTHING`,
		h.Customer, string(h.Env), feature, value, minute)
	return err
}

// Tell tells other nodes whose usage this batch changed, under the node's next
// number. The database counts, because a node that lost the answer to a commit does
// not know whether it took place. On SQLite there are no other nodes.
func (u *UsageTx) Tell(node string, at time.Time, holders []Holder) (err error) {
	defer wrap(&err, "tell")
	if u.db.dialect == SQLite {
		return nil
	}
	customers := map[usher.Environment][]string{}
	for _, h := range holders {
		customers[h.Env] = append(customers[h.Env], h.Customer)
	}
	body, err := json.Marshal(customers)
	if err != nil {
		return err
	}
	_, err = exec(u.ctx, u.tx, `INSERT INTO usage_batch (node, n, at, customers) VALUES ($1, (SELECT 1 + coalesce(max(n), 0)
		FROM usage_batch WHERE node = $1), $2, $3)`, node, micros(at), string(body))
	return err
}

// rows returns n rows of parameters, for statements whose size varies: numbered on
// PostgreSQL, unnumbered on SQLite.
func (db *DB) rows(n, width int) string {
	if db.dialect == Postgres {
		return values(n, width, 1)
	}
	return questions(n, width)
}
