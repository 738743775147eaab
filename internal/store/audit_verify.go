package store

import (
	"context"
	"database/sql"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// auditPage is how many rows of the log one query reads.
const auditPage = 1000

// VerifyAudit checks the whole audit log on one state of the database: every row
// against its hash and its columns, every hash against the two below it, the root
// and the signature, the kept checkpoint, and the hours of usage. It calls progress
// (nil: none) with the number of rows checked so far.
func (db *DB) VerifyAudit(ctx context.Context, o audit.Options, progress func(rows int64)) (report *audit.Report, err error) {
	defer wrap(&err, "verify audit")
	err = db.scan(ctx, func(s *Scan) error {
		var head usher.AuditHead
		var root []byte
		if err := s.tx.QueryRowContext(ctx, `SELECT size, root, note, key FROM audit_head WHERE one = 1`).Scan(&head.Size, &root,
			&head.Note, &head.Key); err != nil && err != sql.ErrNoRows {
			return err
		}
		v := &auditVerifier{Scan: s, Walk: audit.NewWalk(head.Note, o), hours: map[hourKey]audit.Hour{}, at: map[hourKey]int64{}}
		if err := v.rows(progress); err != nil {
			return err
		}
		report = v.End()
		v.head(&head, root)
		return v.usage(db.now())
	})
	if err != nil {
		return nil, err
	}
	return report, nil
}

type auditVerifier struct {
	*Scan
	*audit.Walk
	stack []storedNode // of whole subtrees, as they are stored
	hours map[hourKey]audit.Hour
	at    map[hourKey]int64 // number of the row that hours was read from
	epoch string            // that the newest row of its kind names
}

// storedNode is a hash as it is stored.
type storedNode struct {
	level int
	hash  audit.Hash
	ok    bool // the hash is stored
}

// auditRow is a row of the table.
type auditRow struct {
	n                                    int64
	leaf                                 []byte
	at                                   int64
	env, actor, action, customer, object string
}

// rows walks over all rows and hashes.
func (v *auditVerifier) rows(progress func(int64)) error {
	for from := int64(0); ; {
		rows, err := v.page(from)
		if err != nil {
			return err
		}
		until := from + auditPage
		if len(rows) == auditPage {
			until = rows[len(rows)-1].n + 1
		}
		hashes, err := v.hashes(audit.First(from), audit.First(until))
		if err != nil {
			return err
		}
		if len(rows) == 0 && len(hashes) == 0 {
			// More than a page of rows was cut out in the middle.
			var next sql.NullInt64
			if err := v.tx.QueryRowContext(v.ctx, `SELECT min(n) FROM audit WHERE n >= $1`, from).Scan(&next); err != nil {
				return err
			}
			if !next.Valid {
				return nil
			}
			v.stack = nil
			from = next.Int64
			continue
		}
		for n := from; n < until; n++ {
			h, stored := hashes[audit.First(n)]
			for len(rows) > 0 && rows[0].n < n { // cannot be: they are sorted
				rows = rows[1:]
			}
			switch {
			case len(rows) > 0 && rows[0].n == n:
				v.row(&rows[0], h, stored)
				rows = rows[1:]
			case stored:
				if v.Next() < n {
					v.Gap(n)
				}
				v.Absent(h)
			default:
				continue
			}
			v.nodes(n, hashes)
		}
		if progress != nil {
			progress(v.Leaves)
		}
		from = until
	}
}

func (v *auditVerifier) page(from int64) ([]auditRow, error) {
	return list(v.ctx, inTx{v.tx}, func(row *sql.Rows, r *auditRow) error {
		return row.Scan(&r.n, &r.leaf, &r.at, &r.env, &r.actor, &r.action, &r.customer, &r.object)
	}, `SELECT n, leaf, at, env, actor, action, customer, object FROM audit WHERE n >= $1 ORDER BY n LIMIT $2`, from, int64(auditPage))
}

func (v *auditVerifier) hashes(from, until int64) (map[int64]audit.Hash, error) {
	return hashesByIndex(list(v.ctx, inTx{v.tx}, scanHash, `SELECT i, hash FROM audit_hash WHERE i >= $1 AND i < $2`, from, until))
}

// row checks a row against its hash and its columns.
func (v *auditVerifier) row(r *auditRow, h audit.Hash, stored bool) {
	if stored {
		v.Leaf(r.n, r.leaf, &h)
	} else {
		v.Leaf(r.n, r.leaf, nil)
		v.Add(audit.Node, "the stored hash of leaf %d is missing", r.n)
	}
	e, err := audit.Decode(r.leaf)
	if err != nil {
		return // Leaf reported it
	}
	differs := func(column, got, want string) {
		if got != want {
			v.Add(audit.Column, "leaf %d: the column %s says %q, and the row itself %q", r.n, column, got, want)
		}
	}
	differs("at", fromMicros(r.at).String(), e.At.String())
	differs("env", r.env, e.Env)
	differs("actor", r.actor, e.Actor)
	differs("action", r.action, e.Action)
	differs("customer", r.customer, e.Customer)
	differs("object", r.object, e.Object)
	if e.Action == audit.ActionEpoch {
		v.epoch = e.Object
	}
	if e.Action == audit.ActionHour {
		k, hour, err := readHour(&e)
		if err != nil {
			v.Add(audit.Form, "leaf %d: %s", r.n, err)
			return
		}
		v.hours[k], v.at[k] = hour, r.n
	}
}

// nodes checks the hashes that row n completes against the stored ones below them:
// an altered hash is reported once, and not for every hash above it.
func (v *auditVerifier) nodes(n int64, hashes map[int64]audit.Hash) {
	h, ok := hashes[audit.First(n)]
	v.Hashes++
	v.stack = append(v.stack, storedNode{0, h, ok})
	for level, i := 0, audit.First(n)+1; n>>level&1 == 1; level, i = level+1, i+1 {
		if len(v.stack) < 2 || v.stack[len(v.stack)-2].level != level {
			return // rows before are missing
		}
		left, right := v.stack[len(v.stack)-2], v.stack[len(v.stack)-1]
		stored, ok := hashes[i]
		v.Hashes++
		first, last := n>>(level+1)<<(level+1), n
		switch want := tlog.NodeHash(left.hash, right.hash); {
		case !ok:
			v.Add(audit.Node, "the stored hash of leaves %d to %d is missing", first, last)
			if left.ok && right.ok {
				stored, ok = want, true
			}
		case left.ok && right.ok && stored != want:
			v.Add(audit.Node, "the stored hash of leaves %d to %d is not that of the hashes below it", first, last)
		}
		v.stack = append(v.stack[:len(v.stack)-2], storedNode{level + 1, stored, ok})
	}
}

// head compares audit_head with the signed checkpoint.
func (v *auditVerifier) head(h *usher.AuditHead, root []byte) {
	if h.Note == "" {
		// Every change of an operator adds a row, and `usher init` adds one for the
		// first owner's token.
		var changes int64
		if err := v.tx.QueryRowContext(v.ctx, `SELECT coalesce(max(revision), 0) FROM operators`).Scan(&changes); err != nil {
			v.Add(audit.Form, "the changes of operators cannot be counted: %s", err)
		} else if changes > 0 {
			v.Add(audit.Missing, "there is no row at all, but operators have had %s, each of which left one",
				usher.CountOf(changes, "change"))
		}
		return
	}
	if h.Size != v.Size {
		v.Add(audit.Column, "audit_head says %d leaves, and its signed checkpoint %d", h.Size, v.Size)
	}
	var r audit.Hash
	copy(r[:], root)
	if r.String() != v.Root {
		v.Add(audit.Column, "audit_head says root %s, and its signed checkpoint %s", r, v.Root)
	}
	if n := len(v.Keys); n > 0 && h.Key != v.Keys[n-1] {
		v.Add(audit.Column, "audit_head says key %s, and the log %s", h.Key, v.Keys[n-1])
	}
	if epoch, _, err := one(v.ctx, inTx{v.tx}, scanText, selectEpoch); err != nil {
		v.Add(audit.Form, "the epoch cannot be read: %s", err)
	} else if epoch != v.epoch {
		v.Add(audit.Column, "the database says epoch %q, and the log %q", epoch, v.epoch)
	}
	var extra int64
	if err := v.tx.QueryRowContext(v.ctx, `SELECT count(*) FROM audit_hash WHERE i >= $1`,
		audit.Hashes(v.Size)).Scan(&extra); err == nil && extra > 0 {
		v.Add(audit.Forged, "%d stored hashes are beyond the signed checkpoint", extra)
	} else if err != nil {
		v.Add(audit.Form, "the stored hashes cannot be counted: %s", err)
	}
}
