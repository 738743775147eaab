package store

import (
	"context"
	"database/sql"
	"encoding/json"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

const selectEpoch = `SELECT id FROM epoch WHERE one = 1`

// Epoch returns the id of this life of the database. It is random, and made anew when
// the data comes from a backup or a copy: what happened after that backup has no
// meaning here.
func (db *DB) Epoch(ctx context.Context) (_ string, err error) {
	defer wrap(&err, "read epoch")
	id, _, err := one(ctx, db, scanText, selectEpoch)
	return id, err
}

// firstEpoch gives a database that has none its epoch.
func (db *DB) firstEpoch(ctx context.Context) error {
	_, has, err := one(ctx, db, scanText, selectEpoch)
	if err != nil || has {
		return err
	}
	return db.tx(ctx, func(tx *sql.Tx) error {
		_, has, err := one(ctx, inTx{tx}, scanText, selectEpoch)
		if err != nil || has {
			return err
		}
		return db.newEpoch(ctx, tx, "init")
	})
}

// newEpoch begins a new life of the database and notes it in the audit log. by is
// what began it: init, restore or copy.
func (db *DB) newEpoch(ctx context.Context, tx *sql.Tx, by string) error {
	before, _, err := one(ctx, inTx{tx}, scanText, selectEpoch)
	if err != nil {
		return err
	}
	id := usher.NewID("epo_", db.now(), nil)
	if _, err := exec(ctx, tx, `INSERT INTO epoch (one, id) VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET id = excluded.id`, id); err != nil {
		return err
	}
	e := AuditEntry{Note: Note{By: usher.By{Actor: usher.Actor{Kind: "system"}}, Action: audit.ActionEpoch, Object: id, At: db.now()}}
	e.After, err = json.Marshal(map[string]string{"epoch": id, "by": by})
	if err != nil {
		return err
	}
	if before != "" {
		if e.Before, err = json.Marshal(map[string]string{"epoch": before}); err != nil {
			return err
		}
	}
	return db.audit(ctx, tx, e)
}
