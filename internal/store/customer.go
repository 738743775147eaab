package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/usher-sh/usher"
)

// CustomerState is every record that decides for one customer, as of one instant.
type CustomerState struct {
	Customer *usher.Customer // nil: unknown or deleted (S36)
	// Deleted is what is left of a deleted customer: id, anchor, time zone and
	// clocks, which a new customer with that id takes over. Else nil.
	Deleted *usher.Customer
	// By id. A deleted customer may still have subscriptions: ended ones, so that
	// a customer gets a trial only once (S35).
	Subscriptions []usher.Subscription
	Overrides     []usher.Override
	Grants        []usher.Grant
	Revision      int64 // of the customer's newest change; 0: there never was one

	EnvRevision     int64
	CatalogRevision int64     // of the catalogue in force; 0: none
	Clock           time.Time // zero: real time
}

// loadText reads a customer in one statement, so that all of it is of one instant
// and costs one round trip. recorded says which rows of a table are meant, and
// catalog which catalogue.
func loadText(recorded, catalog string) string {
	return `
SELECT 0 AS part, '' AS id, '' AS a, '' AS b, '' AS c, revision AS n, ` + catalog +
		` AS m, clock_at AS k, 0 AS l FROM environment WHERE env = $1
UNION ALL SELECT 1, id, name, timezone, metadata, anchor, created_at, deleted_at, revision FROM customer WHERE env = $1 AND id = $2
UNION ALL SELECT 2, id, clocks, '', '', 0, 0, 0, 0 FROM customer_clock WHERE id = $2 AND env = $1 AND ` + recorded + `
UNION ALL SELECT 3, id, body, '', '', 0, 0, 0, 0 FROM subscription WHERE customer = $2 AND env = $1 AND ` + recorded + `
UNION ALL SELECT 4, id, body, '', '', 0, 0, 0, 0 FROM overrides WHERE customer = $2 AND env = $1 AND ` + recorded + `
UNION ALL SELECT 5, id, body, '', '', 0, 0, 0, 0 FROM grants WHERE customer = $2 AND env = $1 AND ` + recorded + `
ORDER BY 1, 2`
}

var (
	loadNow = loadText(isCurrent, `catalog_revision`)
	// loadThen reads the customer as known at revision $3.
	loadThen = loadText(wasCurrent("", "$3"), catalogThen("$3"))
)

// LoadCustomer reads what decides for customer id: as recorded now if asKnown is
// 0, else as known at that revision (S30). It returns Invalid for a revision that
// does not exist yet. Revision, EnvRevision and Clock are always today's, and so
// are name and metadata: they decide nothing and may have been erased.
func (db *DB) LoadCustomer(ctx context.Context, env usher.Environment, id string, asKnown int64) (_ CustomerState, err error) {
	defer wrap(&err, "load customer")
	text, args := loadNow, []any{string(env), id}
	if asKnown != 0 {
		text, args = loadThen, append(args, asKnown)
	}
	s, found, err := db.load(ctx, text, args)
	switch {
	case err != nil:
		return CustomerState{}, err
	case !found:
		return CustomerState{}, noEnvironment(env)
	case asKnown < 0 || asKnown > s.EnvRevision:
		return CustomerState{}, usher.Errorf(usher.Invalid, "there is no revision %d yet: the newest is %d", asKnown, s.EnvRevision)
	}
	if s.Revision == 0 || s.Customer.Clocks != nil {
		return s, nil
	}
	// Deleted, or not created yet at asKnown. Its clocks are the last recorded ones.
	// If a change comes between the two reads, the change's Basis shows it.
	s.Deleted, s.Customer = s.Customer, nil
	if asKnown == 0 {
		asKnown = forever
	}
	clocks, ok, err := one(ctx, db, scanBody[[]usher.Clock], `SELECT clocks FROM customer_clock
		WHERE id = $1 AND env = $2 AND recorded_from <= $3 ORDER BY recorded_from DESC LIMIT 1`, id, string(env), asKnown)
	if !ok {
		s.Deleted = nil
	} else {
		s.Deleted.Clocks = clocks
	}
	return s, err
}

func (db *DB) load(ctx context.Context, text string, args []any) (s CustomerState, found bool, err error) {
	rows, err := db.query(ctx, text, args...)
	if err != nil {
		return s, false, err
	}
	defer rows.Close()
	for rows.Next() {
		var part, n, m, k, l int64
		var id, a, b, c string
		if err := rows.Scan(&part, &id, &a, &b, &c, &n, &m, &k, &l); err != nil {
			return s, false, err
		}
		switch part {
		case 0:
			found = true
			s.EnvRevision, s.CatalogRevision, s.Clock = n, m, clockTime(k)
		case 1:
			s.Customer, err = head(id, a, b, c, n, m)
			s.Revision = l
		case 2:
			if s.Customer == nil { // ordered after its head
				return s, false, fmt.Errorf("customer %q has clocks and no head", id)
			}
			err = json.Unmarshal([]byte(a), &s.Customer.Clocks)
		case 3:
			s.Subscriptions, err = appendBody(s.Subscriptions, a)
		case 4:
			s.Overrides, err = appendBody(s.Overrides, a)
		case 5:
			s.Grants, err = appendBody(s.Grants, a)
		}
		if err != nil {
			return s, false, fmt.Errorf("customer %q, stored row %q: %w", args[1], id, err)
		}
	}
	return s, found, rows.Err()
}

func appendBody[T any](all []T, body string) ([]T, error) {
	var v T
	err := json.Unmarshal([]byte(body), &v)
	return append(all, v), err
}

func head(id, name, timezone, metadata string, anchor, createdAt int64) (*usher.Customer, error) {
	c := &usher.Customer{ID: id, Name: name, Timezone: timezone, CreatedAt: fromMicros(createdAt)}
	if anchor != none {
		t := fromMicros(anchor)
		c.Anchor = &t
	}
	return c, json.Unmarshal([]byte(metadata), &c.Metadata)
}

// Customers reads the live customers by id, after the given one; fewer than
// limit means the end.
func (db *DB) Customers(ctx context.Context, env usher.Environment, after string, limit int) (_ []usher.Customer, err error) {
	defer wrap(&err, "read customers")
	return list(ctx, db, scanCustomer, selectCustomer+`c.env = $1 AND c.id > $2 ORDER BY c.id LIMIT $3`, string(env), after, int64(limit))
}

// Customer reads a live customer; NotFound if there is none.
func (db *DB) Customer(ctx context.Context, env usher.Environment, id string) (_ usher.Customer, err error) {
	defer wrap(&err, "read customer")
	c, ok, err := one(ctx, db, scanCustomer, selectCustomer+`c.env = $1 AND c.id = $2`, string(env), id)
	if err == nil && !ok {
		err = usher.Errorf(usher.NotFound, "no customer %q", id)
	}
	return c, err
}

const selectCustomer = `SELECT c.id, c.name, c.timezone, c.metadata, c.anchor, c.created_at, k.clocks
	FROM customer c JOIN customer_clock k ON k.id = c.id AND k.env = c.env AND k.recorded_until IS NULL WHERE `

func scanCustomer(row *sql.Rows, v *usher.Customer) error {
	var id, name, timezone, metadata, clocks string
	var anchor, createdAt int64
	if err := row.Scan(&id, &name, &timezone, &metadata, &anchor, &createdAt, &clocks); err != nil {
		return err
	}
	c, err := head(id, name, timezone, metadata, anchor, createdAt)
	if err != nil {
		return err
	}
	*v = *c
	return json.Unmarshal([]byte(clocks), &v.Clocks)
}

// CustomerChange is one atomic change of what one customer holds.
type CustomerChange struct {
	Env      usher.Environment
	Note     Note
	Customer string
	// What it was computed from: CustomerState's Revision and CatalogRevision.
	Basis, BasisCatalog int64

	// Put creates, replaces or revives the customer; nil leaves it as it is.
	Put *usher.Customer
	// Delete deletes it (S36): name and metadata are erased, and all that it
	// holds is closed, except subscriptions that the change names.
	Delete bool

	// Each becomes the current row of its id, new or not. Customer is the change's.
	Subscriptions []usher.Subscription
	Overrides     []usher.Override
	Grants        []usher.Grant
	// Ids that are no longer there; NotFound where they were not.
	CloseOverrides []string
	CloseGrants    []string

	Answer *StoredAnswer // nil: no idempotency key was given
}

// ChangeCustomer applies c whole or not at all and returns its revision. It
// returns ErrKeyTaken if the answer's key already has an answer, ErrStale if the
// customer or the catalogue has changed since the basis, and NotFound for a change
// other than Put to a customer that is unknown or deleted.
func (db *DB) ChangeCustomer(ctx context.Context, c CustomerChange) (revision int64, err error) {
	defer wrap(&err, "change customer")
	if err := c.check(); err != nil {
		return 0, err
	}
	err = db.tx(ctx, func(tx *sql.Tx) (err error) {
		revision, err = db.changeCustomer(ctx, tx, &c)
		return err
	})
	if err != nil {
		return 0, err
	}
	return revision, nil
}

func (c *CustomerChange) check() error {
	wrong := func(what, id string) error {
		return fmt.Errorf("store: change of customer %q: %s %q is not the customer's", c.Customer, what, id)
	}
	switch {
	case c.Put != nil && c.Delete:
		return fmt.Errorf("store: customer %q is put and deleted at once", c.Customer)
	case c.Put != nil && c.Put.ID != c.Customer:
		return wrong("customer", c.Put.ID)
	case c.Put != nil && len(c.Put.Clocks) == 0:
		return fmt.Errorf("store: customer %q has no clock", c.Customer)
	}
	for i := range c.Subscriptions {
		if c.Subscriptions[i].Customer != c.Customer {
			return wrong("subscription", c.Subscriptions[i].ID)
		}
	}
	for i := range c.Overrides {
		if c.Overrides[i].Customer != c.Customer {
			return wrong("override", c.Overrides[i].ID)
		}
	}
	for i := range c.Grants {
		if c.Grants[i].Customer != c.Customer {
			return wrong("grant", c.Grants[i].ID)
		}
	}
	return nil
}

// All changes take locks in this order, so that they cannot deadlock: environment,
// customer, key, audit log.
func (db *DB) changeCustomer(ctx context.Context, tx *sql.Tx, c *CustomerChange) (int64, error) {
	// Raising the revision locks the environment's row, so all changes of one environment
	// come one after another, and revisions become visible in their order (S06).
	revision, env, err := raise(ctx, tx, c.Env)
	if err != nil {
		return 0, err
	}
	if err := keyFree(ctx, tx, c.Env, c.Answer); err != nil {
		return 0, err
	}
	var basis, deleted int64
	err = tx.QueryRowContext(ctx, `SELECT revision, deleted_at FROM customer WHERE env = $1 AND id = $2`, string(c.Env),
		c.Customer).Scan(&basis, &deleted)
	if err != nil && err != sql.ErrNoRows {
		return 0, err
	}
	if basis != c.Basis || env.CatalogRevision != c.BasisCatalog {
		return 0, ErrStale
	}
	if c.Put == nil && (basis == 0 || deleted != 0) {
		return 0, usher.Errorf(usher.NotFound, "no customer %q", c.Customer)
	}
	switch {
	case c.Put != nil:
		err = putCustomer(ctx, tx, c.Env, revision, c.Put)
	case c.Delete:
		err = deleteCustomer(ctx, tx, c, revision)
	default:
		_, err = exec(ctx, tx, `UPDATE customer SET revision = $3 WHERE env = $1 AND id = $2`, string(c.Env), c.Customer, revision)
	}
	if err != nil {
		return 0, err
	}
	for _, id := range c.CloseOverrides {
		if err := closeRow(ctx, tx, c.Env, revision, "overrides", "override", c.Customer, id); err != nil {
			return 0, err
		}
	}
	for _, id := range c.CloseGrants {
		if err := closeRow(ctx, tx, c.Env, revision, "grants", "grant", c.Customer, id); err != nil {
			return 0, err
		}
	}
	if err := replace(ctx, tx, c.Env, revision, "subscription", datedSubscriptions(c.Subscriptions)); err != nil {
		return 0, err
	}
	if err := replace(ctx, tx, c.Env, revision, "overrides", datedOverrides(c.Overrides)); err != nil {
		return 0, err
	}
	if err := replace(ctx, tx, c.Env, revision, "grants", datedGrants(c.Grants)); err != nil {
		return 0, err
	}
	if err := storeAnswer(ctx, tx, c.Env, revision, c.Answer); err != nil {
		return 0, err
	}
	return revision, db.record(ctx, tx, c.Env, revision, c.Customer, c.Note)
}

func putCustomer(ctx context.Context, tx *sql.Tx, env usher.Environment, revision int64, c *usher.Customer) error {
	metadata, err := json.Marshal(c.Metadata)
	if err != nil {
		return err
	}
	anchor := int64(none)
	if c.Anchor != nil {
		anchor = micros(*c.Anchor)
	}
	_, err = exec(ctx, tx, `INSERT INTO customer (env, id, name, metadata, timezone, anchor, created_at, deleted_at, revision)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8)
		ON CONFLICT (env, id) DO UPDATE SET name = excluded.name, metadata = excluded.metadata, timezone = excluded.timezone,
			anchor = excluded.anchor, created_at = excluded.created_at, deleted_at = 0, revision = excluded.revision`,
		string(env), c.ID, c.Name, string(metadata), c.Timezone, anchor, micros(c.CreatedAt), revision)
	if err != nil {
		return err
	}
	clocks, err := json.Marshal(c.Clocks)
	if err != nil {
		return err
	}
	var now string
	err = tx.QueryRowContext(ctx, `SELECT clocks FROM customer_clock WHERE id = $1 AND env = $2 AND recorded_until IS NULL`, c.ID,
		string(env)).Scan(&now)
	if err == nil && now == string(clocks) {
		return nil // a new name changes nothing that decides
	} else if err != nil && err != sql.ErrNoRows {
		return err
	}
	if err := closeClocks(ctx, tx, env, c.ID, revision); err != nil {
		return err
	}
	_, err = exec(ctx, tx, `INSERT INTO customer_clock (env, id, clocks, recorded_from) VALUES ($1, $2, $3, $4)`, string(env), c.ID,
		string(clocks), revision)
	return err
}

func closeClocks(ctx context.Context, tx *sql.Tx, env usher.Environment, id string, revision int64) error {
	_, err := exec(ctx, tx, `UPDATE customer_clock SET recorded_until = $3 WHERE id = $1 AND env = $2 AND recorded_until IS NULL`, id,
		string(env), revision)
	return err
}

func deleteCustomer(ctx context.Context, tx *sql.Tx, c *CustomerChange, revision int64) error {
	_, err := exec(ctx, tx, `UPDATE customer SET name = '', metadata = 'null', deleted_at = $3, revision = $4 WHERE env = $1 AND id = $2`,
		string(c.Env), c.Customer, micros(c.Note.At), revision)
	if err != nil {
		return err
	}
	if err := closeClocks(ctx, tx, c.Env, c.Customer, revision); err != nil {
		return err
	}
	if err := closeDirectory(ctx, tx, c.Env, revision, c.Customer); err != nil {
		return err
	}
	// Leave out what the change itself replaces or closes: a row is closed once.
	for _, t := range []struct {
		table string
		keep  []string
	}{
		{"subscription", ids(c.Subscriptions, func(s *usher.Subscription) string { return s.ID })},
		{"overrides", append(ids(c.Overrides, func(o *usher.Override) string { return o.ID }), c.CloseOverrides...)},
		{"grants", append(ids(c.Grants, func(g *usher.Grant) string { return g.ID }), c.CloseGrants...)},
	} {
		held, err := list(ctx, inTx{tx}, scanText, `SELECT id FROM `+t.table+` WHERE customer = $1 AND env = $2
			AND recorded_until IS NULL`, c.Customer, string(c.Env))
		if err != nil {
			return err
		}
		for _, id := range held {
			if slices.Contains(t.keep, id) {
				continue
			}
			if err := closeRow(ctx, tx, c.Env, revision, t.table, t.table, c.Customer, id); err != nil {
				return err
			}
		}
	}
	return nil
}

func ids[T any](all []T, id func(*T) string) []string {
	names := make([]string, len(all))
	for i := range all {
		names[i] = id(&all[i])
	}
	return names
}
