package store

import (
	"net/url"
	"strings"
	"testing"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// TestAudit_RoleWithFewerRights: usher serves as the PostgreSQL role that the
// documentation of the audit log describes, which can change nothing in the log,
// nor take away what keeps it whole.
func TestAudit_RoleWithFewerRights(t *testing.T) {
	t.Parallel()
	dsn := postgresDSN(t)
	owner := openTest(t, dsn)
	put(t, owner, "before")
	var database string
	if err := owner.w.QueryRowContext(t.Context(), `SELECT current_database()`).Scan(&database); err != nil {
		t.Fatal(err)
	}
	role := "serves_" + database
	for _, s := range []string{
		`CREATE ROLE "` + role + `" LOGIN`,
		`REVOKE CREATE ON SCHEMA public FROM PUBLIC`,
		`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "` + role + `"`,
		`REVOKE UPDATE, DELETE ON audit, audit_hash FROM "` + role + `"`,
		`REVOKE INSERT, DELETE ON audit_head FROM "` + role + `"`,
	} {
		write(t, owner, s)
	}
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if q.Has("user") {
		q.Set("user", role)
		u.RawQuery = q.Encode()
	} else {
		u.User = url.User(role)
	}
	db := openTest(t, u.String())
	var who string
	if err := db.w.QueryRowContext(t.Context(), `SELECT current_user`).Scan(&who); err != nil || who != role {
		t.Fatalf("got %q, %v, want the role %s", who, err, role)
	}
	put(t, db, "one")
	put(t, db, "two")
	apply(t, db, CatalogChange{Hash: "one"})
	if err := db.CreateKey(t.Context(), usher.APIKey{ID: "k", Env: env, Hash: []byte("h"), CreatedAt: day(1)},
		usher.By{Actor: usher.Actor{Kind: "cli"}}, day(1)); err != nil {
		t.Error(err)
	}
	for _, s := range []string{
		`UPDATE audit SET actor = 'x'`, `DELETE FROM audit`, `TRUNCATE audit`, `UPDATE audit_hash SET i = i`, `DELETE FROM audit_hash`,
		`TRUNCATE audit_hash`,
		`DELETE FROM audit_head`, `TRUNCATE audit_head`, `INSERT INTO audit_head SELECT * FROM audit_head`,
		`ALTER TABLE audit DISABLE TRIGGER ALL`, `DROP TRIGGER audit_rows ON audit`, `DROP TABLE audit`, `CREATE TABLE other (n BIGINT)`,
		`CREATE OR REPLACE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$`,
	} {
		_, err := db.w.ExecContext(t.Context(), s)
		if code := postgresCode(err); code != "42501" {
			t.Errorf("%s: got %v, want that the right is missing", s, err)
		}
	}
	if _, err := db.w.ExecContext(t.Context(), `UPDATE audit_head SET size = 1`); err == nil ||
		!strings.Contains(err.Error(), "append-only") {
		t.Errorf("the head, backwards: got %v", err)
	}
	if r := verify(t, db, audit.Options{}); r.Total != 0 || r.Leaves != 7 {
		t.Errorf("got %+v, want 7 rows and no faults", r)
	}
}
