package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/usher-sh/usher"
)

// CatalogRow is one applied catalogue.
type CatalogRow struct {
	Revision  int64
	Hash      string
	Source    string // as sent
	Canonical string
	Actor     string
	AppliedAt time.Time
}

func scanCatalog(row *sql.Rows, c *CatalogRow) error {
	var at int64
	err := row.Scan(&c.Revision, &c.Hash, &c.Source, &c.Canonical, &c.Actor, &at)
	c.AppliedAt = fromMicros(at)
	return err
}

// Catalog reads the catalogue in force; nil if none was applied yet.
func (db *DB) Catalog(ctx context.Context, env usher.Environment) (_ *CatalogRow, err error) {
	defer wrap(&err, "read catalog")
	return db.catalogAt(ctx, env, math.MaxInt64)
}

// CatalogAt reads the catalogue that was in force at a revision of the
// environment; nil if none was applied by then.
func (db *DB) CatalogAt(ctx context.Context, env usher.Environment, revision int64) (_ *CatalogRow, err error) {
	defer wrap(&err, "read catalog at")
	return db.catalogAt(ctx, env, revision)
}

func (db *DB) catalogAt(ctx context.Context, env usher.Environment, revision int64) (*CatalogRow, error) {
	c, ok, err := one(ctx, db, scanCatalog, `SELECT revision, hash, source, canonical, actor, applied_at FROM catalog
		WHERE env = $1 AND revision <= $2 ORDER BY revision DESC LIMIT 1`, string(env), revision)
	if err != nil || !ok {
		return nil, err
	}
	return &c, nil
}

// CatalogRevisions reads the history without the texts, newest first, before a
// revision (0: from the newest). Fewer than limit rows means the end.
func (db *DB) CatalogRevisions(ctx context.Context, env usher.Environment, before int64, limit int) (_ []CatalogRow, err error) {
	defer wrap(&err, "read catalog revisions")
	if before == 0 {
		before = math.MaxInt64
	}
	return list(ctx, db, scanCatalog, `SELECT revision, hash, '', '', actor, applied_at FROM catalog
		WHERE env = $1 AND revision < $2 ORDER BY revision DESC LIMIT $3`, string(env), before, int64(limit))
}

// CatalogChange is a catalogue to put in force, with everything that follows from it.
type CatalogChange struct {
	Env   usher.Environment
	Note  Note
	Basis int64 // the environment's revision that it was computed from

	Source, Canonical, Hash string
	Plans                   []usher.PlanVersion  // new versions
	Addons                  []usher.AddonVersion // new versions
	// Migrate are subscriptions with new bodies; the revisions of their customers rise.
	Migrate []usher.Subscription

	Answer *StoredAnswer // nil: no idempotency key was given
}

// ApplyCatalog applies c whole or not at all and returns its revision, which is
// the environment's and the catalogue's. It returns ErrKeyTaken if the answer's
// key already has an answer, and ErrStale if anything in the environment has
// changed since the basis: whether a feature is in use (S31) depends on all of it.
func (db *DB) ApplyCatalog(ctx context.Context, c CatalogChange) (revision int64, err error) {
	defer wrap(&err, "apply catalog")
	err = db.tx(ctx, func(tx *sql.Tx) (err error) {
		revision, err = db.applyCatalog(ctx, tx, &c)
		return err
	})
	if err != nil {
		return 0, err
	}
	return revision, nil
}

func (db *DB) applyCatalog(ctx context.Context, tx *sql.Tx, c *CatalogChange) (int64, error) {
	revision, env, err := raise(ctx, tx, c.Env)
	if err != nil {
		return 0, err
	}
	if err := keyFree(ctx, tx, c.Env, c.Answer); err != nil {
		return 0, err
	}
	if env.Revision != c.Basis {
		return 0, ErrStale
	}
	if _, err := exec(ctx, tx, `UPDATE environment SET catalog_revision = revision WHERE env = $1`, string(c.Env)); err != nil {
		return 0, err
	}
	_, err = exec(ctx, tx, `INSERT INTO catalog (env, revision, hash, source, canonical, applied_at, actor)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		string(c.Env), revision, c.Hash, c.Source, c.Canonical, micros(c.Note.At), c.Note.Actor.String())
	if err != nil {
		return 0, err
	}
	for i := range c.Plans {
		if err := publish(ctx, tx, c.Env, revision, "plan_version", c.Plans[i].Ref(), &c.Plans[i]); err != nil {
			return 0, err
		}
	}
	for i := range c.Addons {
		if err := publish(ctx, tx, c.Env, revision, "addon_version", c.Addons[i].Ref(), &c.Addons[i]); err != nil {
			return 0, err
		}
	}
	if err := replace(ctx, tx, c.Env, revision, "subscription", datedSubscriptions(c.Migrate)); err != nil {
		return 0, err
	}
	for part := c.Migrate; len(part) > 0; {
		n := min(len(part), rowsAtOnce)
		args := []any{revision, string(c.Env)}
		for _, s := range part[:n] {
			args = append(args, s.Customer)
		}
		// Both databases know IN (VALUES …): one text for both, and an index look-up each.
		if _, err := exec(ctx, tx, `UPDATE customer SET revision = $1 WHERE env = $2 AND id IN (VALUES `+values(n, 1, 3)+`)`,
			args...); err != nil {
			return 0, err
		}
		part = part[n:]
	}
	if err := storeAnswer(ctx, tx, c.Env, revision, c.Answer); err != nil {
		return 0, err
	}
	return revision, db.record(ctx, tx, c.Env, revision, "", c.Note)
}

func publish(ctx context.Context, tx *sql.Tx, env usher.Environment, revision int64, table string, ref usher.Ref, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = exec(ctx, tx, `INSERT INTO `+table+` (env, key, version, body, revision) VALUES ($1, $2, $3, $4, $5)`,
		string(env), ref.Key, int64(ref.Version), string(body), revision)
	if duplicate(err) {
		return fmt.Errorf("store: %s %s is published already: %w", table, ref, err)
	}
	return err
}

// CatalogRevisionAt reads the revision of the catalogue in force at a revision; 0
// if there was none.
func (db *DB) CatalogRevisionAt(ctx context.Context, env usher.Environment, revision int64) (_ int64, err error) {
	defer wrap(&err, "read catalog revision at")
	n, _, err := one(ctx, db, scanInt, `SELECT coalesce(max(revision), 0) FROM catalog WHERE env = $1 AND revision <= $2`, string(env),
		revision)
	return n, err
}
