package store

import (
	"context"
	"database/sql"
	"io"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// AuditExport selects what to export. The zero AuditExport is the whole log.
type AuditExport struct {
	usher.AuditQuery
	// Since is a signed checkpoint that the reader kept: the export proves that the
	// log contains it. "": none.
	Since string
}

// auditFilter returns the query in words; nil for all rows.
func auditFilter(q *usher.AuditQuery) map[string]string {
	f := map[string]string{}
	set := func(name, v string) {
		if v != "" {
			f[name] = v
		}
	}
	var envs []string
	for _, env := range q.Envs {
		envs = append(envs, string(env))
	}
	if q.Envs != nil {
		f["env"] = strings.Join(envs, ",")
	}
	set("actor", q.Actor)
	set("action", q.Action)
	set("customer", q.Customer)
	set("object", q.Object)
	if !q.From.IsZero() {
		f["from"] = q.From.UTC().Format(time.RFC3339Nano)
	}
	if !q.To.IsZero() {
		f["to"] = q.To.UTC().Format(time.RFC3339Nano)
	}
	if len(f) == 0 {
		return nil
	}
	return f
}

// ExportAudit writes rows of the audit log, oldest first, with everything that is
// needed to verify them with the public key alone. It signs the file, and returns
// Refused without the private key and NotFound for an empty log. rows is how many
// rows it wrote. It returns an error of w as it is.
func (db *DB) ExportAudit(ctx context.Context, w io.Writer, x AuditExport) (rows int64, err error) {
	defer wrap(&err, "export audit")
	err = db.scan(ctx, func(s *Scan) error {
		var head usher.AuditHead
		if err := s.tx.QueryRowContext(ctx, selectAuditHead).Scan(&head.Size, &head.Note, &head.Key); err != nil {
			return err
		}
		if head.Size == 0 {
			return usher.Errorf(usher.NotFound, "the audit log is empty: nothing was written yet")
		}
		signer, err := db.exportSigner(ctx, s, head.Key)
		if err != nil {
			return err
		}
		h := audit.Header{At: db.now().UTC().Truncate(time.Second), Checkpoint: head.Note, Filter: auditFilter(&x.AuditQuery)}
		hashes := tlog.HashReaderFunc(func(indexes []int64) ([]audit.Hash, error) {
			found, err := auditHashes(ctx, inTx{s.tx}, indexes)
			if err != nil {
				return nil, err
			}
			out := make([]audit.Hash, len(indexes))
			for k, i := range indexes {
				out[k] = found[i] // a missing hash makes a proof that fails
			}
			return out, nil
		})
		if x.Since != "" {
			kept, err := audit.ReadCheckpoint(x.Since)
			if err != nil {
				return usher.Errorf(usher.Invalid, "the kept checkpoint: %s", err)
			}
			if kept.Size > head.Size {
				return usher.Errorf(usher.Refused, "the kept checkpoint covers %d leaves and the log has %d: the log was rolled back",
					kept.Size, head.Size)
			}
			proof, err := tlog.ProveTree(head.Size, kept.Size, hashes)
			if err != nil {
				return err
			}
			h.Since = &audit.Since{Checkpoint: x.Since, Proof: proof}
		}
		out, err := audit.NewExport(w, h, signer)
		if err != nil {
			return fromOutside(err)
		}
		if rows, err = s.export(out, x, h.Filter == nil, head.Size, hashes); err != nil {
			return err
		}
		return fromOutside(out.End())
	})
	return rows, err
}

func (db *DB) exportSigner(ctx context.Context, s *Scan, key string) (*audit.Signer, error) {
	if db.signKey != nil {
		if db.signKey.Public() != key {
			return nil, usher.Errorf(usher.Refused, "the audit log is signed with %s, not with the given key", key)
		}
		return db.signKey, nil
	}
	var private string
	if err := s.tx.QueryRowContext(ctx, `SELECT coalesce(max(private), '') FROM audit_key`).Scan(&private); err != nil {
		return nil, err
	}
	if private == "" {
		return nil, db.noAuditKey(key)
	}
	signer, err := audit.ParseKey(private)
	if err == nil && signer.Public() != key {
		err = db.noAuditKey(key)
	}
	return signer, err
}

// export writes the rows page by page: a proof reads on the same connection, so
// the rows of a page must be closed before.
func (s *Scan) export(out *audit.Export, x AuditExport, full bool, size int64, hashes tlog.HashReader) (written int64, err error) {
	type row struct {
		n    int64
		leaf []byte
	}
	where, args := auditWhere(&x.AuditQuery)
	text := `SELECT n, leaf FROM audit` + where + ` AND n >= ` + dollar(len(args)+1) + ` ORDER BY n LIMIT ` + dollar(len(args)+2)
	scan := func(rows *sql.Rows, r *row) error { return rows.Scan(&r.n, &r.leaf) }
	for from := int64(0); ; {
		page, err := list(s.ctx, inTx{s.tx}, scan, text, append(args[:len(args):len(args)], from, int64(auditPage))...)
		if err != nil {
			return written, err
		}
		for _, r := range page {
			var proof []audit.Hash
			if !full && r.n < size {
				if proof, err = tlog.ProveRecord(size, r.n, hashes); err != nil {
					return written, err
				}
			}
			if err := out.Leaf(r.n, r.leaf, proof); err != nil {
				return written, fromOutside(err)
			}
			written++
		}
		if len(page) < auditPage {
			return written, nil
		}
		from = page[len(page)-1].n + 1
	}
}
