package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// UsageBatch lists the customers whose usage one batch of one node changed.
type UsageBatch struct {
	Node      string
	N         int64 // dense per node, from 1: a gap means that batches were missed
	At        time.Time
	Customers map[usher.Environment][]string
}

// maxBatches bounds one answer of UsageBatchesSince.
const maxBatches = 1000

// UsageBatchesSince reads the batches of each node after its N in seen; of nodes
// that are not in seen, all batches. They are ordered by node and N, at most
// 1,000: after a full answer, ask again.
func (db *DB) UsageBatchesSince(ctx context.Context, seen map[string]int64) (_ []UsageBatch, err error) {
	defer wrap(&err, "read usage batches since")
	var text strings.Builder
	var args []any
	text.WriteString(`SELECT node, n, at, customers FROM usage_batch WHERE `)
	var names []string
	for _, node := range slices.Sorted(maps.Keys(seen)) {
		args = append(args, node, seen[node])
		fmt.Fprintf(&text, "node = $%d AND n > $%d OR ", len(args)-1, len(args))
		names = append(names, fmt.Sprintf("$%d", len(args)-1))
	}
	if len(names) > 0 {
		text.WriteString(`node NOT IN (` + strings.Join(names, ",") + `)`)
	} else {
		text.WriteString(`1 = 1`)
	}
	fmt.Fprintf(&text, ` ORDER BY node, n LIMIT %d`, maxBatches)
	return list(ctx, db, scanBatch, text.String(), args...)
}

func scanBatch(row *sql.Rows, b *UsageBatch) error {
	var at int64
	var customers string
	if err := row.Scan(&b.Node, &b.N, &at, &customers); err != nil {
		return err
	}
	b.At = fromMicros(at)
	return json.Unmarshal([]byte(customers), &b.Customers)
}

// UsageNodes reads the newest N of each node. A poller starts there.
func (db *DB) UsageNodes(ctx context.Context) (_ map[string]int64, err error) {
	defer wrap(&err, "read usage nodes")
	type row struct {
		node string
		n    int64
	}
	rows, err := list(ctx, db, func(r *sql.Rows, v *row) error { return r.Scan(&v.node, &v.n) },
		`SELECT node, max(n) FROM usage_batch GROUP BY node`)
	if err != nil {
		return nil, err
	}
	nodes := make(map[string]int64, len(rows))
	for _, r := range rows {
		nodes[r.node] = r.n
	}
	return nodes, nil
}

// PruneUsageBatches deletes batches before t. It keeps each node's newest one, so
// that a poller that fell behind sees the gap.
func (db *DB) PruneUsageBatches(ctx context.Context, t time.Time) (err error) {
	defer wrap(&err, "prune usage batches")
	return db.tx(ctx, func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, `DELETE FROM usage_batch WHERE at < $1
			AND n < (SELECT max(b.n) FROM usage_batch b WHERE b.node = usage_batch.node)`, micros(t))
		return err
	})
}
