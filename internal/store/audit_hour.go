package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// hourKey is an hour of an environment, by the environment's own clock.
type hourKey struct {
	env   usher.Environment
	start int64 // µs
}

const hourMicros = int64(time.Hour / time.Microsecond)

func (k hourKey) object() string { return fromMicros(k.start).Format(time.RFC3339) }

func readHour(e *audit.Entry) (k hourKey, h audit.Hour, err error) {
	at, err := time.Parse(time.RFC3339, e.Object)
	if err == nil {
		err = json.Unmarshal(e.After, &h)
	}
	if err != nil || at.UnixMicro()%hourMicros != 0 {
		return k, h, fmt.Errorf("it should say what was used in an hour, and cannot be read")
	}
	return hourKey{usher.Environment(e.Env), at.UnixMicro()}, h, nil
}

// hourSums are the ledger's rows, added up by hour in one pass over each table.
type hourSums struct {
	takes, events, corrections map[hourKey]*audit.Sum
}

func newHourSums() *hourSums {
	return &hourSums{map[hourKey]*audit.Sum{}, map[hourKey]*audit.Sum{}, map[hourKey]*audit.Sum{}}
}

func (s *hourSums) hour(k hourKey) audit.Hour {
	return audit.Hour{Takes: s.takes[k].Rows(), Events: s.events[k].Rows(), Corrections: s.corrections[k].Rows()}
}

// keys lists the hours that have rows, oldest first.
func (s *hourSums) keys() []hourKey {
	all := map[hourKey]bool{}
	for _, m := range []map[hourKey]*audit.Sum{s.takes, s.events, s.corrections} {
		for k := range m {
			all[k] = true
		}
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b hourKey) int {
		return cmp.Or(cmp.Compare(a.start, b.start), strings.Compare(string(a.env), string(b.env)))
	})
}

func sumTo(m map[hourKey]*audit.Sum, k hourKey, fields ...[]byte) {
	s := m[k]
	if s == nil {
		s = new(audit.Sum)
		m[k] = s
	}
	s.Add(fields...)
}

func number(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

func hourOf(us int64) int64 { return us - (us%hourMicros+hourMicros)%hourMicros }

// add adds env's rows that were written in [from, until) in µs: takes that are
// not folded yet, events and corrections. Of takes and events it reads only those
// after the marks.
func (s *hourSums) add(ctx context.Context, r reader, env usher.Environment, from, until int64, marks hourMarks) error {
	each := func(to map[hourKey]*audit.Sum, text string, after rowMark, scan func(*sql.Rows) (at int64, fields [][]byte, err error)) error {
		args := []any{string(env), from, until}
		if after.row > 0 {
			text += ` AND rowid > $4`
			args = append(args, after.row)
		}
		rows, err := r.query(ctx, text, args...)
		if err != nil {
			return err
		}
		return eachRow(rows, func() error {
			at, fields, err := scan(rows)
			if err == nil && fields != nil {
				sumTo(to, hourKey{env, hourOf(at)}, fields...)
			}
			return err
		})
	}
	err := each(s.takes, `SELECT key, route, body_hash, customer, feature, at, amount, answer FROM op WHERE env = $1 AND at >= $2
		AND at < $3`, marks.op, func(rows *sql.Rows) (int64, [][]byte, error) {
		var key, route, customer, feature string
		var hash, answer []byte
		var at, amount int64
		err := rows.Scan(&key, &route, &hash, &customer, &feature, &at, &amount, &answer)
		if strings.HasPrefix(string(answer), answerMark) { // a stored answer of a change, which has its own row in the log
			return 0, nil, err
		}
		return at, [][]byte{[]byte(key), []byte(route), hash, []byte(customer), []byte(feature), number(at), number(amount), answer}, err
	})
	if err != nil {
		return err
	}
	err = each(s.events, `SELECT id, source, customer, type, at, received_at, hash, data, entries FROM event WHERE env = $1
		AND received_at >= $2 AND received_at < $3`, marks.event, func(rows *sql.Rows) (int64, [][]byte, error) {
		var id, source, customer, kind, data string
		var hash, entries []byte
		var at, received int64
		err := rows.Scan(&id, &source, &customer, &kind, &at, &received, &hash, &data, &entries)
		return received, [][]byte{[]byte(id), []byte(source), []byte(customer), []byte(kind), number(at), number(received), hash,
			[]byte(data), entries}, err
	})
	if err != nil {
		return err
	}
	return each(s.corrections, `SELECT ref, source, key, customer, feature, amount, at, reason, actor, entries FROM correction
		WHERE env = $1 AND at >= $2 AND at < $3`, rowMark{}, func(rows *sql.Rows) (int64, [][]byte, error) {
		var ref, source, key, customer, feature, reason, actor string
		var entries []byte
		var amount, at int64
		err := rows.Scan(&ref, &source, &key, &customer, &feature, &amount, &at, &reason, &actor, &entries)
		return at, [][]byte{[]byte(ref), []byte(source), []byte(key), []byte(customer), []byte(feature), number(amount), number(at),
			[]byte(reason), []byte(actor), entries}, err
	})
}

// hourMarks is how far this process has logged an environment's hours.
type hourMarks struct {
	until     int64 // every hour that ended by then is logged; µs
	op, event rowMark
}

// rowMark is a row of a table on SQLite. It and all rows before it belong to
// logged hours and need not be read again: there is no index on the time, because
// every take would have to maintain it. PostgreSQL has a BRIN index, which costs
// nothing, and needs no marks. The zero rowMark is before all rows.
type rowMark struct {
	row int64
	key string
	at  int64
}

// markedTables are the tables that have marks.
var markedTables = [2]struct{ name, key, at string }{{"op", "key", "at"}, {"event", "id", "received_at"}}

func (m *hourMarks) of(table int) *rowMark { return []*rowMark{&m.op, &m.event}[table] }

// hourMarksOf returns what this process remembers of env, without marks whose row
// was deleted: SQLite reuses the number of a deleted last row.
func (db *DB) hourMarksOf(ctx context.Context, env usher.Environment) (hourMarks, error) {
	v, _ := db.hours.Load(env)
	marks, _ := v.(hourMarks)
	for i, t := range markedTables {
		m := marks.of(i)
		if m.row == 0 {
			continue
		}
		now, _, err := one(ctx, db, scanMark, `SELECT rowid, `+t.key+`, `+t.at+` FROM `+t.name+` WHERE rowid = $1`, m.row)
		if err != nil {
			return marks, err
		}
		if now != *m {
			*m = rowMark{}
		}
	}
	return marks, nil
}

func scanMark(row *sql.Rows, m *rowMark) error { return row.Scan(&m.row, &m.key, &m.at) }

// advance moves the marks to just before env's first row at or after until, in µs,
// and not beyond the rows in ends. No row before until may be written after this.
func (m *hourMarks) advance(ctx context.Context, db *DB, env usher.Environment, until int64, ends [2]int64) error {
	m.until = until
	for i, t := range markedTables {
		to := m.of(i)
		first, ok, err := one(ctx, db, scanInt,
			`SELECT rowid FROM `+t.name+` WHERE rowid > $1 AND rowid <= $2 AND env = $3 AND `+t.at+` >= $4 ORDER BY rowid LIMIT 1`,
			to.row, ends[i], string(env), until)
		if err != nil {
			return err
		}
		end := ends[i]
		if ok {
			end = first - 1
		}
		if *to, _, err = one(ctx, db, scanMark, `SELECT rowid, `+t.key+`, `+t.at+` FROM `+t.name+` WHERE rowid <= $1 ORDER BY rowid DESC
			LIMIT 1`, end); err != nil {
			return err
		}
	}
	return nil
}

// AuditHours adds a row to the audit log for every hour of env that had use, ended
// by until, and has no row yet; added is how many. until is by env's clock, and so
// long ago that no use before it is written any more. Nodes may call it at the same
// time: one of them adds the row of an hour. On SQLite the first call of a process
// reads all takes and events, later calls only new ones.
func (db *DB) AuditHours(ctx context.Context, env usher.Environment, until time.Time) (added int64, err error) {
	defer wrap(&err, "audit hours")
	end := hourOf(micros(until))
	marks, err := db.hourMarksOf(ctx, env)
	if err != nil || marks.until >= end && marks.until != 0 {
		return 0, err
	}
	var ends [2]int64
	if db.dialect == SQLite {
		for i, t := range markedTables {
			if ends[i], _, err = one(ctx, db, scanInt, `SELECT coalesce(max(rowid), 0) FROM `+t.name); err != nil {
				return 0, err
			}
		}
	}
	last, _, err := one(ctx, db, scanText,
		`SELECT object FROM audit WHERE action = $1 AND env = $2 ORDER BY object DESC LIMIT 1`, audit.ActionHour, string(env))
	if err != nil {
		return 0, err
	}
	from := int64(-1 << 62)
	if last != "" {
		at, err := time.Parse(time.RFC3339, last)
		if err != nil {
			return 0, err
		}
		from = at.UnixMicro() + hourMicros
	}
	sums := newHourSums()
	if err := sums.add(ctx, db, env, from, end, marks); err != nil {
		return 0, err
	}
	for _, k := range sums.keys() {
		after, err := json.Marshal(sums.hour(k))
		if err != nil {
			return added, err
		}
		err = db.tx(ctx, func(tx *sql.Tx) error {
			a, err := db.auditTail(ctx, tx)
			if err != nil {
				return err
			}
			var done bool // under the lock
			if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM audit WHERE action = $1 AND env = $2 AND object = $3)`,
				audit.ActionHour, string(env), k.object()).Scan(&done); err != nil || done {
				return err
			}
			return a.append(ctx, tx, db.entry(&AuditEntry{Env: env, Note: Note{By: bySystem, Action: audit.ActionHour,
				Object: k.object(), After: after}}))
		})
		if err != nil {
			return added, err
		}
		added++
	}
	if db.dialect == SQLite {
		if err := marks.advance(ctx, db, env, end, ends); err != nil {
			return added, err
		}
	}
	marks.until = end
	db.hours.Store(env, marks)
	return added, nil
}

// keepTakes is how long takes are kept at least, before they are folded.
const keepTakes = 62 * 24 * time.Hour

// usage compares the ledger with the log's row of every hour.
func (v *auditVerifier) usage(now time.Time) error {
	environments, err := environments(v.ctx, inTx{v.tx})
	if err != nil {
		return err
	}
	sums := newHourSums()
	newest := map[usher.Environment]int64{}
	for k := range v.hours {
		newest[k.env] = max(newest[k.env], k.start+hourMicros)
	}
	for env, until := range newest {
		if err := sums.add(v.ctx, inTx{v.tx}, env, -1<<62, until, hourMarks{}); err != nil {
			return err
		}
	}
	for _, k := range sums.keys() {
		if _, ok := v.hours[k]; !ok {
			h := sums.hour(k)
			v.Add(audit.UsageHour, "%s, hour of %s: the ledger has %s, %s and %s, and the log has no row for them",
				k.env, k.object(), usher.CountOf(h.Takes.Rows, "take"), usher.CountOf(h.Events.Rows, "event"),
				usher.CountOf(h.Corrections.Rows, "correction"))
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(v.hours), func(a, b hourKey) int { return cmp.Compare(v.at[a], v.at[b]) }) {
		want, got := v.hours[k], sums.hour(k)
		v.Hours++
		same := func(what string, got, want audit.Rows) {
			if got != want {
				v.Add(audit.UsageHour, "%s, hour of %s: its %s have changed since leaf %d: %s then, %d now", k.env, k.object(),
					what, v.at[k], usher.CountOf(want.Rows, "row"), got.Rows)
			}
		}
		// Takes may be folded once they are older than keepTakes by both the server's
		// time and the environment's.
		oldest := now.Add(-keepTakes).UnixMicro()
		if clock := environments[k.env].Clock; !clock.IsZero() {
			oldest = min(oldest, micros(clock.Add(-keepTakes)))
		}
		if k.start >= oldest {
			same("takes", got.Takes, want.Takes)
		}
		same("events", got.Events, want.Events)
		same("corrections", got.Corrections, want.Corrections)
	}
	return nil
}
