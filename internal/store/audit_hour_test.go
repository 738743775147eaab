package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// TestAudit_HoursOfUse: one row for each ended hour that had use, once, and a
// change of the ledger afterwards is found.
func TestAudit_HoursOfUse(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		start := time.Now().UTC().Truncate(time.Hour).Add(-5 * time.Hour)
		take := func(key string, at time.Time, env usher.Environment) {
			write(t, db, `INSERT INTO op (key, env, route, body_hash, customer, feature, at, amount, answer)
				VALUES ($1, $2, 'POST /v1/consume', $3, 'acme', 'api', $4, 1, $5)`,
				key, string(env), []byte{1}, micros(at), []byte{1, 2, 3})
		}
		take("a", start, usher.Production)
		take("b", start.Add(59*time.Minute), usher.Production)
		take("c", start.Add(2*time.Hour), usher.Production)
		take("c", start.Add(2*time.Hour), usher.Sandbox)
		take("d", start.Add(4*time.Hour), usher.Production) // not ended yet
		write(t, db, `INSERT INTO event (id, source, env, customer, type, at, received_at, hash, data, entries)
			VALUES ('e', 's', 'production', 'acme', 'x', 0, $1, $2, '{}', $2)`, micros(start.Add(time.Minute)), []byte{1})
		write(t, db, `INSERT INTO correction (ref, source, env, key, customer, feature, amount, at, reason, actor, entries)
			VALUES ('a', '', 'production', 'k', 'acme', 'api', 1, $1, 'r', 'x', $2)`, micros(start.Add(2*time.Hour)), []byte{0})
		until := start.Add(4*time.Hour + time.Minute)
		for i, want := range []int64{2, 0} {
			got, err := db.AuditHours(t.Context(), usher.Production, until)
			if err != nil || got != want {
				t.Errorf("time %d: %d hours, %v, want %d", i+1, got, err, want)
			}
		}
		if got, err := db.AuditHours(t.Context(), usher.Sandbox, until); err != nil || got != 1 {
			t.Errorf("sandbox: %d hours, %v, want 1", got, err)
		}
		rows, err := db.Audit(t.Context(), usher.AuditQuery{Action: audit.ActionHour}, 10)
		if err != nil || len(rows) != 3 {
			t.Fatalf("got %v, %v", rows, err)
		}
		first := rows[2]
		if first.Object != start.Format(time.RFC3339) || first.Env != "production" ||
			!strings.Contains(string(first.After), `"takes":{"rows":2,"sha256":"`) || !strings.Contains(string(first.After),
			`"events":{"rows":1,"sha256":"`) {
			t.Errorf("got %+v %s", first, first.After)
		}
		faults := func(want ...string) {
			t.Helper()
			r := verify(t, db, audit.Options{})
			if r.Hours != 3 || len(r.Faults) != len(want) {
				t.Fatalf("got %+v, want %q", r, want)
			}
			for i := range want {
				if !strings.Contains(r.Faults[i].Text, want[i]) {
					t.Errorf("got %q, want %q", r.Faults[i].Text, want[i])
				}
			}
		}
		faults()
		write(t, db, `UPDATE op SET amount = 2 WHERE key = 'a'`)
		hour := "production, hour of " + start.Format(time.RFC3339)
		faults(hour + ": its takes have changed since leaf 2: 2 rows then, 2 now")
		write(t, db, `UPDATE op SET amount = 1 WHERE key = 'a'`)
		faults()
		write(t, db, `DELETE FROM event`)
		faults(hour + ": its events have changed since leaf 2: 1 row then, 0 now")
		take("forged", start.Add(time.Hour), usher.Production)
		faults("the ledger has 1 take, 0 events and 0 corrections, and the log has no row for them", "its events have changed")
		// What is as old as folding is not asked for takes any more.
		write(t, db, `DELETE FROM op WHERE env = 'production'`)
		db.now = func() time.Time { return time.Now().Add(63 * 24 * time.Hour) }
		faults("its events have changed")
	})
}

// TestAudit_HoursByMarks: on SQLite each tick reads only what came since, and
// misses nothing: not where the newest rows go and their numbers are given again,
// nor where the other environment writes between, nor what comes late in its hour.
func TestAudit_HoursByMarks(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *DB) {
		start := time.Now().UTC().Truncate(time.Hour).Add(-40 * time.Hour)
		n := 0
		take := func(at time.Time, env usher.Environment) {
			n++
			write(t, db, `INSERT INTO op (key, env, route, body_hash, customer, feature, at, amount, answer)
				VALUES ($1, $2, 'POST /v1/consume', $3, 'acme', 'api', $4, 1, $5)`,
				fmt.Sprintf("k%d", n), string(env), []byte{1}, micros(at), []byte{1, 2, 3})
			write(t, db, `INSERT INTO event (id, source, env, customer, type, at, received_at, hash, data, entries)
				VALUES ($1, 's', $2, 'acme', 'x', 0, $3, $4, '{}', $4)`,
				fmt.Sprintf("e%d", n), string(env), micros(at), []byte{1})
		}
		close := func(hour int, want int64) {
			t.Helper()
			var got int64
			for _, env := range usher.Environments {
				added, err := db.AuditHours(t.Context(), env, start.Add(time.Duration(hour)*time.Hour+time.Minute))
				if err != nil {
					t.Fatal(err)
				}
				got += added
			}
			if got != want {
				t.Errorf("at hour %d: got %d hours, want %d", hour, got, want)
			}
			if r := verify(t, db, audit.Options{}); r.Total != 0 {
				t.Errorf("at hour %d: %+v", hour, r.Faults)
			}
		}
		at := func(hour, minute int) time.Time {
			return start.Add(time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute)
		}
		for hour := range 10 {
			take(at(hour, 50), usher.Production)
			take(at(hour, 10), usher.Production) // out of order
			if hour%3 == 0 {
				take(at(hour, 20), usher.Sandbox)
			}
			take(at(hour+1, 1), usher.Production)
			want := int64(1)
			if hour%3 == 0 {
				want++
			}
			close(hour+1, want)
			close(hour+1, 0)
		}
		if db.dialect == SQLite {
			marks, err := db.hourMarksOf(t.Context(), usher.Production)
			var newest int64
			if err == nil {
				err = db.r.QueryRowContext(t.Context(), `SELECT max(rowid) FROM op`).Scan(&newest)
			}
			if err != nil || marks.op.row != newest-1 || marks.event.row != newest-1 {
				t.Errorf("got marks %+v, %v, want %d: all rows but the one of the hour that goes on", marks, err, newest-1)
			}
		}
		// All takes are folded, which gives their numbers again.
		close(11, 1)
		db.now = func() time.Time { return time.Now().Add(63 * 24 * time.Hour) }
		write(t, db, `DELETE FROM op`)
		for i := range n + 5 {
			take(at(12, i%60), usher.Production)
		}
		close(13, 1)
	})
}
