package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/usher-sh/usher"
)

// dated is one new row of subscription, overrides or grants. A dated row is never
// overwritten (S30): a change closes it at the change's revision and adds another.
type dated struct {
	id, customer string
	label        string // the table's column of this name: family or feature
	holds        string // of a subscription
	endsAt       int64
	body         any
}

// isCurrent is the condition of the rows that are recorded now.
const isCurrent = `recorded_until IS NULL`

// wasCurrent is the condition of the rows of a table ("t.", or "" if the text has
// one table) that were recorded at a revision, which is a parameter: "$3".
func wasCurrent(table, revision string) string {
	return table + `recorded_from <= ` + revision + ` AND (` + table + `recorded_until IS NULL OR ` + table + `recorded_until > ` +
		revision + `)`
}

// catalogThen is the revision of the catalogue in force at a revision, which is a
// parameter; 0 if there was none.
func catalogThen(revision string) string {
	return `(SELECT coalesce(max(revision), 0) FROM catalog WHERE env = $1 AND revision <= ` + revision + `)`
}

// rowsAtOnce is the most rows of one statement, well below both databases' limits
// of parameters (32,766 and 65,535).
const rowsAtOnce = 200

// replace closes the current rows with the same ids, if any, and adds the given
// ones. A row never passes to another customer: an id that another customer uses
// is a Conflict, which the partial unique index (…_now) reports.
func replace(ctx context.Context, tx *sql.Tx, env usher.Environment, revision int64, table string, rows []dated) error {
	columns, width := "env, id, customer, feature, body, ends_at, recorded_from", 7
	if table == "subscription" {
		columns, width = "env, id, customer, family, body, ends_at, recorded_from, holds", 8
	}
	for len(rows) > 0 {
		n := min(len(rows), rowsAtOnce)
		closing := []any{revision, string(env)}
		var adding []any
		for _, r := range rows[:n] {
			body, err := json.Marshal(r.body)
			if err != nil {
				return fmt.Errorf("%s %s: %w", table, r.id, err)
			}
			closing = append(closing, r.id, r.customer)
			adding = append(adding, string(env), r.id, r.customer, r.label, string(body), r.endsAt, revision)
			if table == "subscription" {
				adding = append(adding, r.holds)
			}
		}
		_, err := exec(ctx, tx, `UPDATE `+table+` SET recorded_until = $1
			WHERE env = $2 AND recorded_until IS NULL AND (id, customer) IN (VALUES `+values(n, 2, 3)+`)`, closing...)
		if err != nil {
			return err
		}
		_, err = exec(ctx, tx, `INSERT INTO `+table+` (`+columns+`) VALUES `+values(n, width, 1), adding...)
		// The current rows of this customer were closed above, so the id that is still in the
		// way is of another.
		if duplicate(err) {
			return usher.Errorf(usher.Conflict, "an id of these %s rows is in use already", table)
		} else if err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// closeRow closes the current row of id; NotFound if the customer has none.
func closeRow(ctx context.Context, tx *sql.Tx, env usher.Environment, revision int64, table, what, customer, id string) error {
	n, err := exec(ctx, tx, `UPDATE `+table+` SET recorded_until = $1
		WHERE id = $2 AND env = $3 AND customer = $4 AND recorded_until IS NULL`, revision, id, string(env), customer)
	if err == nil && n == 0 {
		return usher.Errorf(usher.NotFound, "no %s %q", what, id)
	}
	return err
}

// current reads the current row of id, of a customer that is not deleted;
// NotFound if there is none.
func current[T any](ctx context.Context, db *DB, table, what string, env usher.Environment, id string) (T, error) {
	v, ok, err := one(ctx, db, scanBody[T], `SELECT t.body FROM `+table+` t JOIN customer c ON c.env = t.env AND c.id = t.customer
		WHERE t.id = $1 AND t.env = $2 AND t.recorded_until IS NULL AND c.deleted_at = 0`, id, string(env))
	if err == nil && !ok {
		err = usher.Errorf(usher.NotFound, "no %s %q", what, id)
	}
	return v, err
}

// holds returns the text that SubscriptionsHolding searches: each version once, in
// the order of the phases, between two spaces.
func holds(s *usher.Subscription) string {
	text := " "
	add := func(ref usher.Ref) {
		if name := ref.String() + " "; !strings.Contains(text, " "+name) {
			text += name
		}
	}
	for _, p := range s.Phases {
		if p.Plan != nil {
			add(p.Plan.Ref)
		}
		if p.Addons != nil {
			for _, a := range *p.Addons {
				add(a.Addon)
			}
		}
	}
	return text
}
