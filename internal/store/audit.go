package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// AuditEntry is one write for the audit log.
type AuditEntry struct {
	Env      usher.Environment // "": the installation: operators, sessions
	Customer string            // "": none
	Revision int64             // 0: the write makes none
	Note
}

// sameClock is how far an environment's time may be from the server's and still
// count as the same: one is read a moment before the other.
const sameClock = time.Minute

// audit appends e to the audit log, in the transaction of the write itself. The
// log's end is the last lock that a transaction takes (environment, customer, key,
// audit log), so audit comes after every other statement that may wait for another
// writer. record calls it for every write that makes a revision.
func (db *DB) audit(ctx context.Context, tx *sql.Tx, e AuditEntry) error {
	if done, err := db.auditAtOnce(ctx, tx, &e); done || err != nil {
		return err
	}
	a, err := db.auditTail(ctx, tx)
	if err != nil {
		return err
	}
	return a.append(ctx, tx, db.entry(&e))
}

func (db *DB) entry(e *AuditEntry) audit.Entry {
	row := audit.Entry{At: db.now(), Env: string(e.Env), Actor: e.Actor.String(), Action: e.Action, Customer: e.Customer, Object: e.Object,
		Reason: e.Reason, Cause: e.Cause, Before: e.Before, After: e.After, Revision: e.Revision, RequestID: e.RequestID}
	if off := row.At.Sub(e.At); !e.At.IsZero() && (off > sameClock || off < -sameClock) {
		at := e.At
		row.Clock = &at
	}
	return row
}

// auditEnd is an end that the log had, or would have had if a transaction had
// committed. Before use, its size and root are compared with the log's. It never
// changes.
type auditEnd struct {
	tree *audit.Tree
	root audit.Hash
}

// auditAtOnce appends a row in one statement, if the log still ends where this
// process saw it last. Otherwise done is false and nothing is written. The row is
// hashed and signed before the lock is taken, and every round trip that is saved
// shortens the time under the lock. Only on PostgreSQL.
func (db *DB) auditAtOnce(ctx context.Context, tx *sql.Tx, e *AuditEntry) (done bool, err error) {
	end, signer := db.auditEnd.Load(), db.signKey
	if signer == nil {
		signer = db.keptKey.Load()
	}
	if db.dialect != Postgres || end == nil || signer == nil {
		return false, nil
	}
	a := &auditTail{db, end.tree.Clone(), signer}
	s, err := a.step(db.entry(e))
	if err != nil {
		return false, err
	}
	indexes, hashes := s.columns()
	n, err := exec(ctx, tx, `WITH head AS (UPDATE audit_head SET size = $1 + 1, root = $2, note = $3 WHERE one = 1 AND size = $1
		AND root = $4 AND key = $5 RETURNING 1),
		leaf AS (INSERT INTO audit (n, leaf, at, env, actor, action, customer, object) SELECT $1, $6, $7, $8, $9, $10, $11, $12 FROM head)
		INSERT INTO audit_hash (i, hash) SELECT i, hash FROM head, unnest($13::bigint[], $14::bytea[]) AS new (i, hash)`,
		s.n, s.root[:], s.note, end.root[:], signer.Public(), s.leaf, micros(s.At), s.Env, s.Actor, s.Action, s.Customer, s.Object,
		indexes, hashes)
	if err != nil || n == 0 {
		return false, err
	}
	db.auditEnd.Store(&auditEnd{a.tree, s.root})
	return true, nil
}

// auditTail is the locked end of the log and its signer.
type auditTail struct {
	db     *DB
	tree   *audit.Tree
	signer *audit.Signer
}

// auditTail locks the log until the end of the transaction: FOR UPDATE makes other
// nodes wait here, so that rows get dense numbers. It reads one row and at most 63
// hashes, however long the log is.
func (db *DB) auditTail(ctx context.Context, tx *sql.Tx) (*auditTail, error) {
	var size int64
	var root []byte
	var key string
	if err := tx.QueryRowContext(ctx, `SELECT size, root, key FROM audit_head WHERE one = 1`+db.forUpdate()).
		Scan(&size, &root, &key); err != nil {
		return nil, err
	}
	a := &auditTail{db: db}
	if end := db.auditEnd.Load(); end != nil && end.tree.Size() == size && bytes.Equal(end.root[:], root) {
		a.tree = end.tree.Clone()
	} else {
		hashes, err := auditHashes(ctx, inTx{tx}, audit.Frontier(size))
		if err == nil {
			a.tree, err = audit.NewTree(size, hashes)
		}
		if err != nil {
			return nil, err
		}
	}
	var announce bool
	var err error
	if a.signer, announce, err = db.auditSigner(ctx, tx, key); err != nil {
		return nil, err
	}
	if announce {
		err = a.append(ctx, tx, audit.KeyEntry(a.signer.Public(), db.now()))
	}
	return a, err
}

// auditStep is everything that one more row writes.
type auditStep struct {
	audit.Entry
	n      int64
	leaf   []byte
	hashes []audit.Hash // from audit.First(n) on
	root   audit.Hash
	note   string
}

// columns returns the step's hashes as two columns: indexes and hashes.
func (s *auditStep) columns() (indexes []int64, hashes [][]byte) {
	for k := range s.hashes {
		indexes = append(indexes, audit.First(s.n)+int64(k))
		hashes = append(hashes, s.hashes[k][:])
	}
	return indexes, hashes
}

// step adds a row to the tree and signs the new head.
func (a *auditTail) step(e audit.Entry) (s auditStep, err error) {
	s.n = a.tree.Size()
	e.N = s.n
	s.Entry = e
	if s.leaf, err = e.Encode(); err != nil {
		return s, err
	}
	if s.hashes, err = a.tree.Add(s.leaf); err != nil {
		return s, err
	}
	if s.root, err = a.tree.Root(); err != nil {
		return s, err
	}
	s.note, err = a.signer.Checkpoint(audit.Checkpoint{Size: s.n + 1, Root: s.root})
	return s, err
}

// append adds a row and replaces the signed checkpoint.
func (a *auditTail) append(ctx context.Context, tx *sql.Tx, e audit.Entry) error {
	s, err := a.step(e)
	if err != nil {
		return err
	}
	if _, err := exec(ctx, tx, `INSERT INTO audit (n, leaf, at, env, actor, action, customer, object)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		s.n, s.leaf, micros(e.At), e.Env, e.Actor, e.Action, e.Customer, e.Object); err != nil {
		return err
	}
	indexes, hashes := s.columns()
	args := make([]any, 0, 2*len(hashes))
	for k := range hashes {
		args = append(args, indexes[k], hashes[k])
	}
	if _, err := exec(ctx, tx, `INSERT INTO audit_hash (i, hash) VALUES `+values(len(hashes), 2, 1), args...); err != nil {
		return err
	}
	if _, err = exec(ctx, tx, `UPDATE audit_head SET size = $1, root = $2, note = $3, key = $4 WHERE one = 1`,
		s.n+1, s.root[:], s.note, a.signer.Public()); err != nil {
		return err
	}
	a.db.auditEnd.Store(&auditEnd{a.tree.Clone(), s.root})
	return nil
}

// auditHashes reads stored hashes by their indexes. It leaves out those that are
// not there.
func auditHashes(ctx context.Context, r reader, indexes []int64) (map[int64]audit.Hash, error) {
	if len(indexes) == 0 {
		return map[int64]audit.Hash{}, nil
	}
	args := make([]any, len(indexes))
	for i := range indexes {
		args[i] = indexes[i]
	}
	return hashesByIndex(list(ctx, r, scanHash, `SELECT i, hash FROM audit_hash WHERE i IN (`+places(len(args), 1)+`)`, args...))
}

// indexedHash is a row of audit_hash.
type indexedHash struct {
	i    int64
	hash audit.Hash
}

func scanHash(row *sql.Rows, h *indexedHash) error {
	var b []byte
	err := row.Scan(&h.i, &b)
	copy(h.hash[:], b)
	return err
}

func hashesByIndex(rows []indexedHash, err error) (map[int64]audit.Hash, error) {
	all := make(map[int64]audit.Hash, len(rows))
	for _, r := range rows {
		all[r.i] = r.hash
	}
	return all, err
}

func scanAuditHead(row *sql.Rows, h *usher.AuditHead) error {
	return row.Scan(&h.Size, &h.Note, &h.Key)
}

const selectAuditHead = `SELECT size, note, key FROM audit_head WHERE one = 1`

// AuditHead reads the end of the audit log; the zero AuditHead if it is empty.
func (db *DB) AuditHead(ctx context.Context) (_ usher.AuditHead, err error) {
	defer wrap(&err, "read audit head")
	h, _, err := one(ctx, db, scanAuditHead, selectAuditHead)
	return h, err
}

// auditWhere returns the query's condition and its values, which begin at $1.
func auditWhere(q *usher.AuditQuery) (text string, args []any) {
	var all []string
	add := func(comparison string, v any) { // "actor =": the value follows
		args = append(args, v)
		all = append(all, comparison+" "+dollar(len(args)))
	}
	if len(q.Envs) > 0 {
		all = append(all, `env IN (`+places(len(q.Envs), 1)+`)`)
		for _, env := range q.Envs {
			args = append(args, string(env))
		}
	}
	if q.Actor != "" {
		add(`actor =`, q.Actor)
	}
	if prefix, ok := strings.CutSuffix(q.Action, "."); ok {
		add(`action >=`, q.Action)
		add(`action <`, prefix+"/") // "/" follows "." in the order of bytes
	} else if q.Action != "" {
		add(`action =`, q.Action)
	}
	if q.Customer != "" {
		add(`customer <> '' AND customer =`, q.Customer) // the first half lets the partial index be used
	}
	if q.Object != "" {
		add(`object =`, q.Object)
	}
	if !q.From.IsZero() {
		add(`at >=`, micros(q.From))
	}
	if !q.To.IsZero() {
		add(`at <`, micros(q.To))
	}
	if q.Before > 0 {
		add(`n <`, q.Before)
	}
	if len(all) == 0 {
		return ` WHERE TRUE`, nil
	}
	return ` WHERE ` + strings.Join(all, ` AND `), args
}

// Audit reads up to limit rows of the audit log, newest first.
func (db *DB) Audit(ctx context.Context, q usher.AuditQuery, limit int) (_ []audit.Entry, err error) {
	defer wrap(&err, "read audit")
	text, args := auditWhere(&q)
	return list(ctx, db, func(row *sql.Rows, e *audit.Entry) error {
		var leaf []byte
		if err := row.Scan(&leaf); err != nil {
			return err
		}
		return json.Unmarshal(leaf, e)
	}, `SELECT leaf FROM audit`+text+` ORDER BY n DESC LIMIT `+dollar(len(args)+1), append(args, int64(limit))...)
}
