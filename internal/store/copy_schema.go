package store

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/usher-sh/usher"
)

// leftOut are the tables that no copy takes along, each with the reason.
var leftOut = map[string]string{
	"goose_db_version": "the target's own migrations",
	"migration_hash":   "the target's own migrations",
	"copying":          "how far a copy has come",
	"audit_key":        "the audit log's private key is kept apart from all copies",
	"session":          "people log in again: a session that was ended after a backup would live again",
	"owner_token":      "a token that was used after a backup would work again",
	"operator_invite":  "an invitation that was used after a backup would work again",
	"job":              "which server does what, and when: the target's servers begin anew",
	"usage_batch":      "what servers told each other about use: they start from what is stored",
}

// table is what a copy knows of a table: both kinds of database describe themselves.
type table struct {
	name    string
	columns []string
	key     []string // names that identify a row, in the order in which rows are read
}

// tables reads the tables that are copied.
func (s *Scan) tables(d Dialect) ([]table, error) {
	text := `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name`
	if d == Postgres {
		text = `SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace
			ORDER BY relname COLLATE "C"`
	}
	names, err := list(s.ctx, inTx{s.tx}, scanText, text)
	if err != nil {
		return nil, err
	}
	var all []table
	for _, name := range names {
		if _, out := leftOut[name]; out {
			continue
		}
		t, err := s.table(d, name)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

// table reads a table's columns and its key: the primary key, or for a dated table the
// columns of its …_now index and the revision at which a row was recorded.
func (s *Scan) table(d Dialect, name string) (table, error) {
	t := table{name: name}
	columns := `SELECT name FROM pragma_table_info($1) ORDER BY cid`
	primary := `SELECT name FROM pragma_table_info($1) WHERE pk > 0 ORDER BY pk`
	now := `SELECT name FROM pragma_index_info($1 || '_now') ORDER BY seqno`
	if d == Postgres {
		columns = `SELECT attname FROM pg_attribute
			WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum`
		of := `SELECT attname FROM pg_index JOIN unnest(indkey) WITH ORDINALITY AS k (attnum, n) ON TRUE
			JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = k.attnum WHERE `
		primary = of + `indrelid = to_regclass($1) AND indisprimary ORDER BY k.n`
		now = of + `indexrelid = to_regclass($1::text || '_now') ORDER BY k.n`
	}
	var err error
	if t.columns, err = list(s.ctx, inTx{s.tx}, scanText, columns, name); err != nil {
		return t, err
	}
	if t.key, err = list(s.ctx, inTx{s.tx}, scanText, primary, name); err != nil || len(t.key) > 0 {
		return t, err
	}
	if t.key, err = list(s.ctx, inTx{s.tx}, scanText, now, name); err != nil {
		return t, err
	}
	if t.key = append(t.key, "recorded_from"); len(t.key) < 2 || !slices.Contains(t.columns, "recorded_from") {
		return t, fmt.Errorf("the table %s has no primary key and is not dated: it cannot be copied", name)
	}
	return t, nil
}

// names returns columns as a list for SQL, each in quotes.
func names(columns []string) string {
	return `"` + strings.Join(columns, `", "`) + `"`
}

// selectAfter reads all rows in the order of their keys, or with after those beyond
// one key, whose values are the parameters.
func (t *table) selectAfter(after bool) string {
	text := `SELECT ` + names(t.columns) + ` FROM "` + t.name + `"`
	if after {
		text += ` WHERE (` + names(t.key) + `) > (` + places(len(t.key), 1) + `)`
	}
	return text + ` ORDER BY ` + names(t.key)
}

// keyText is the key of a row as text.
func (t *table) keyText(row []any) (string, error) {
	var parts []string
	for _, name := range t.key {
		i := slices.Index(t.columns, name)
		switch v := row[i].(type) {
		case int64:
			parts = append(parts, "i"+strconv.FormatInt(v, 10))
		case string:
			parts = append(parts, "t"+v)
		case []byte:
			parts = append(parts, "b"+hex.EncodeToString(v))
		default:
			return "", fmt.Errorf("the key %s of %s is a %T", name, t.name, v)
		}
	}
	b, err := json.Marshal(parts)
	return string(b), err
}

// readKey reads what keyText wrote.
func readKey(text string) ([]any, error) {
	var parts []string
	if err := json.Unmarshal([]byte(text), &parts); err != nil {
		return nil, err
	}
	key := make([]any, len(parts))
	for i, p := range parts {
		var err error
		switch p[0] {
		case 'i':
			key[i], err = strconv.ParseInt(p[1:], 10, 64)
		case 'b':
			key[i], err = hex.DecodeString(p[1:])
		default:
			key[i] = p[1:]
		}
		if err != nil {
			return nil, err
		}
	}
	return key, nil
}

// count returns how many rows a table has.
func (s *Scan) count(ctx context.Context, name string) (n int64, err error) {
	err = s.tx.QueryRowContext(ctx, `SELECT count(*) FROM "`+name+`"`).Scan(&n)
	return n, err
}

// SampleCustomers returns up to n ids of customers of an environment, chosen at random.
func (db *DB) SampleCustomers(ctx context.Context, env usher.Environment, n int) (_ []string, err error) {
	defer wrap(&err, "sample customers")
	return list(ctx, atOnce{db.r}, scanText, `SELECT id FROM customer WHERE env = $1 AND deleted_at = 0 ORDER BY random() LIMIT $2`,
		string(env), int64(n))
}
