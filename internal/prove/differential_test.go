package prove

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/server"
	"github.com/usher-sh/usher/internal/testpg"
)

// TestI7_SameAnswerEverywhere plays random lives. At each step the pure engine, a
// server on SQLite and two nodes on one PostgreSQL that write in turn must answer the
// same, with warm caches and with dropped ones. Nodes run in this process, because a
// cache cannot be dropped from outside. If answers differ, the test removes steps as
// long as they still differ, and prints the rest.
func TestI7_SameAnswerEverywhere(t *testing.T) {
	t.Parallel()
	seed, want := seed(t), size(600, 20_000)
	files, err := filepath.Glob("testdata/differential/*.yaml")
	if err != nil || len(files) < 12 {
		t.Fatalf("%d catalogues: %v", len(files), err)
	}
	pg := postgres(t)
	var cases, lives, made atomic.Int64
	var wg sync.WaitGroup
	for range size(2, 3) {
		wg.Go(func() {
			for cases.Load() < int64(want) && !t.Failed() {
				n := uint64(lives.Add(1) - 1)
				steps, name, err := life(seed, n, files, size(90, 300))
				if err != nil {
					t.Error(err)
					return
				}
				diff, compared, err := play(t, pg, steps)
				cases.Add(int64(compared))
				made.Add(int64(len(steps)))
				if err != nil {
					t.Errorf("seed %d, life %d (%s): %v", seed, n, name, err)
					return
				}
				if diff != nil {
					left, diff := shortened(t, pg, steps, diff)
					var b strings.Builder
					for _, s := range left {
						fmt.Fprintf(&b, "\n%4d  %s %s %s", s.n, s.method, s.path, s.body)
					}
					t.Errorf("seed %d, life %d (%s): answers differ\n%s\nafter%s", seed, n, name, diff, b.String())
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d cases in %d steps of %d lives", cases.Load(), made.Load(), lives.Load())
	if !t.Failed() && cases.Load() < int64(want) {
		t.Errorf("%d cases, want %d", cases.Load(), want)
	}
}

// step is one call. n names it and what it creates, also when other steps are removed.
type step struct {
	n                  int
	method, path, body string
	changes            string // "customer", "environment" or, of use, ""
	who                string // whose use or holdings it changes or asks about; "" is nobody's
}

func (s step) asks() bool {
	return s.method == "GET" || s.path == "/v1/check" || s.path == "/v1/check/batch" || s.path == "/v1/explain"
}

// difference is the first step at which answers differ.
type difference struct {
	step    step
	answers []string
}

func (d *difference) String() string {
	return fmt.Sprintf("%d  %s %s %s\n\t%s", d.step.n, d.step.method, d.step.path, d.step.body, strings.Join(d.answers, "\n\t"))
}

// shortened removes steps as long as answers differ, within bounds.
func shortened(t *testing.T, pg *testpg.Server, steps []step, diff *difference) ([]step, *difference) {
	cut := func(diff *difference) {
		for i, s := range steps {
			if s.n == diff.step.n {
				steps = steps[:i+1]
				return
			}
		}
	}
	cut(diff)
	end := time.Now().Add(time.Minute)
	try := func(keep func(i int, s step) bool) bool {
		var fewer []step
		for i, s := range steps {
			if i < 2 || i == len(steps)-1 || keep(i, s) { // the clock and the catalogue stay
				fewer = append(fewer, s)
			}
		}
		if len(fewer) == len(steps) || time.Now().After(end) {
			return false
		}
		d, _, err := play(t, pg, fewer)
		if err != nil || d == nil {
			return false
		}
		steps, diff = fewer, d
		cut(d)
		return true
	}
	who := diff.step.who
	try(func(_ int, s step) bool { return s.who == "" || s.who == who })
	try(func(_ int, s step) bool { return !s.asks() })
	for chunk := max(len(steps)/2, 1); ; chunk /= 2 {
		for from := 2; from < len(steps)-1; {
			if !try(func(i int, _ step) bool { return i < from || i >= from+chunk }) {
				from += chunk
			}
		}
		if chunk == 1 {
			break
		}
	}
	return steps, diff
}

// play runs a whole life on new databases.
func play(t *testing.T, pg *testpg.Server, steps []step) (diff *difference, compared int, err error) {
	dir, err := os.MkdirTemp(temporary, "life-")
	if err != nil {
		return nil, 0, err
	}
	defer os.RemoveAll(dir)
	dsn, err := pg.NewDatabase(t.Context())
	if err != nil {
		return nil, 0, err
	}
	var now atomic.Int64 // the step that is played
	newID := func(prefix string) string { return prefix + strconv.FormatInt(now.Load(), 10) }
	var nodes [3]*place
	for i, at := range []string{filepath.Join(dir, "usher.db"), dsn, dsn} {
		p, err := open(at, []string{"sqlite", "postgres a", "postgres b"}[i], newID)
		if err != nil {
			return nil, 0, err
		}
		defer p.close()
		nodes[i] = p
	}
	lite, a, b := nodes[0], nodes[1], nodes[2]
	m := newMirror(lite.DB)
	for _, s := range steps {
		now.Store(int64(s.n))
		if s.n%2 == 0 {
			a, b = b, a // a writes
		}
		var heard []heard
		hear := func(p *place, how string) error {
			status, text, err := p.call(s)
			if err == nil {
				heard = append(heard, bare(p.name+how, status, text))
			}
			return err
		}
		if s.asks() {
			for _, p := range nodes[1:] {
				p.hears(s.who)
			}
			err = errors.Join(hear(lite, ""), hear(a, ""))
			if s.n%3 == 0 {
				lite.forget()
				err = errors.Join(err, hear(lite, ", cold"))
			}
			b.forget()
			err = errors.Join(err, hear(b, ", cold"))
		} else {
			err = errors.Join(hear(lite, ""), hear(a, ""))
		}
		if err != nil {
			return nil, compared, err
		}
		switch {
		case s.changes == "" && !s.asks():
			b.late[s.who] = true
		case s.changes == "environment", s.changes == "customer" && s.n%3 == 0:
			// Nodes poll, so a change of the clock or the catalogue takes effect after that.
			if err := b.Live.Refresh(t.Context(), usher.Sandbox); err != nil {
				return nil, compared, err
			}
		case s.changes == "customer":
			b.old = true // its takes must be right all the same
		}
		if s.changes != "" {
			m.changed()
		}
		if s.method == "PUT" && strings.HasPrefix(s.path, "/v1/catalog") && heard[0].status == http.StatusOK {
			if err := m.apply(s.body); err != nil {
				return nil, compared, err
			}
		}
		if status, text := m.do(s.n, s.method, s.path, s.body); status != 0 {
			heard = append(heard, bare("engine", status, text))
		}
		compared += max(strings.Count(s.body, `"customer"`), 1)
		for _, h := range heard[1:] {
			if !h.same(heard[0]) {
				return &difference{step: s, answers: shown(heard)}, compared, nil
			}
		}
	}
	return nil, compared, nil
}

// shown is the number of answers that are printed before the first difference.
func shown(all []heard) (lines []string) {
	from := len(all[0].text)
	for _, h := range all {
		i := 0
		for i < min(from, len(h.text)) && h.text[i] == all[0].text[i] {
			i++
		}
		if h.status < 300 {
			from = i
		}
	}
	for _, h := range all {
		text := h.text
		if cut := min(from-300, len(text)); cut > 0 {
			text = "…" + text[cut:]
		}
		lines = append(lines, fmt.Sprintf("%-16s %d %s", h.who, h.status, text))
	}
	return lines
}

// heard returns an answer without the parts that may differ: revisions, request ids
// and the key's name.
type heard struct {
	who, text string
	status    int
	code      string // of an error
}

var mayDiffer = regexp.MustCompile(`,?"(revision|request_id|created_by|updated_by|hash)":("[^"]*"|[0-9]+)|"message":"(\\.|[^"\\])*"`)

func bare(who string, status int, text string) heard {
	h := heard{who: who, status: status, text: strings.TrimSpace(mayDiffer.ReplaceAllString(text, ""))}
	if status >= 400 {
		var p struct{ Code string }
		json.Unmarshal([]byte(text), &p) // what is no problem has no code
		h.code = p.Code
	}
	return h
}

func (h heard) same(o heard) bool {
	if h.status != o.status || h.code != o.code || h.status >= 500 {
		return false // there is no reason for a fault here
	}
	if h.status >= 400 && (h.who == "engine" || o.who == "engine") {
		return true // the engine has no words for errors
	}
	a, b := strings.ReplaceAll(h.text, "{,", "{"), strings.ReplaceAll(o.text, "{,", "{")
	if h.who == "engine" || o.who == "engine" { // it explains, but advice needs the facts of the customer
		a, _, _ = strings.Cut(a, `,"would_change":`)
		b, _, _ = strings.Cut(b, `,"would_change":`)
	}
	return a == b
}

// place is a node in this process.
type place struct {
	*server.Server
	name string
	http *httptest.Server
	key  string
	all  map[string]bool // customers that were asked about
	late map[string]bool // customers whose use another node changed
	old  bool            // another node changed who holds what
}

func open(dsn, name string, newID func(string) string) (*place, error) {
	ctx := context.Background()
	p := &place{name: name, all: map[string]bool{}, late: map[string]bool{}}
	var err error
	if p.Server, err = server.Open(ctx, server.Config{DB: dsn, MaxConns: 3, Node: name, NewID: newID}); err != nil {
		return nil, err
	}
	p.http = httptest.NewServer(p.Server)
	p.key, _, err = p.Auth.Create(ctx, usher.Actor{Kind: "cli"}, usher.Sandbox, "differential", auth.RoleAdmin, time.Time{})
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *place) close() {
	p.http.Close()
	p.Close()
}

// hears does at once what polling does within a second.
func (p *place) hears(who string) {
	if p.old {
		p.Live.Refresh(context.Background(), usher.Sandbox)
		p.old = false
	}
	for who := range p.late {
		p.Live.Forget(usher.Sandbox, who)
	}
	clear(p.late)
}

// forget drops the node's caches.
func (p *place) forget() {
	for who := range p.all {
		p.Live.Forget(usher.Sandbox, who)
	}
}

func (p *place) call(s step) (int, string, error) {
	if s.who != "" {
		p.all[s.who] = true
	}
	req, err := http.NewRequest(s.method, p.http.URL+s.path, bytes.NewReader([]byte(s.body)))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+p.key)
	switch {
	case s.body == "":
	case s.path == "/v1/events":
		req.Header.Set("Content-Type", "application/cloudevents-batch+json")
	case strings.HasPrefix(s.path, "/v1/catalog"):
		req.Header.Set("Content-Type", "application/yaml")
	default:
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := p.http.Client().Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

// author writes a life: calls about a few customers that fit a catalogue. It does not
// use any answer, so that steps can be removed.
type author struct {
	*rand.Rand
	c      *usher.Catalog
	file   string
	now    time.Time
	steps  []step
	made   map[string][]int // steps by what they make: "override", "hold", "take" …
	counts []string         // features that are counted
	adds   []string         // features that may be taken from
	seats  []string
	all    []string
}

var people = []string{"ann", "bob", "cy"}

// life returns the n-th life of a seed, of about size steps.
func life(seed, n uint64, files []string, size int) (steps []step, name string, err error) {
	w := &author{Rand: rand.New(rand.NewPCG(seed, n)), made: map[string][]int{}}
	name = files[(n+seed)%uint64(len(files))]
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, name, err
	}
	w.file = string(text)
	if w.c, err = catalogfile.Parse(name, []byte(w.edition(2))); err != nil {
		return nil, name, err
	}
	for _, key := range sorted(w.c.Features) {
		f := w.c.Features[key]
		w.all = append(w.all, key)
		gauge := f.Meter != "" && !w.c.Meters[f.Meter].Aggregation.Adds()
		switch {
		case f.Kind == usher.Seats:
			w.seats = append(w.seats, key)
			w.counts = append(w.counts, key)
		case f.Kind.Counts():
			w.counts = append(w.counts, key)
			if !gauge {
				w.adds = append(w.adds, key)
			}
		}
	}
	w.now = time.Date(2024+w.IntN(3), time.Month(1+w.IntN(12)), 1+w.IntN(31), w.IntN(24), w.IntN(60), w.IntN(60), 0, time.UTC)
	w.clock()
	w.step("environment", "", "PUT", "/v1/catalog", w.edition(2))
	for _, who := range people {
		w.customer(who)
		if w.IntN(5) > 0 {
			w.subscribe(who)
		}
	}
	for len(w.steps) < size {
		w.next()
	}
	first, last := w.now.AddDate(0, 0, -200), w.now.Add(2*time.Hour)
	for _, who := range people {
		for _, f := range w.counts {
			if w.c.Features[f].Kind != usher.Seats {
				w.step("", who, "GET", fmt.Sprintf("/v1/usage?customer=%s&feature=%s&from=%s&to=%s&window=day", who, f, stamp(first), stamp(last)), "")
			}
		}
		w.step("", who, "GET", fmt.Sprintf("/v1/denials?customer=%s&from=%s&to=%s", who, stamp(first), stamp(last)), "")
	}
	return w.steps, filepath.Base(name), nil
}

var figure = regexp.MustCompile(`\$([0-9]+)`)

// edition returns the catalogue with its figures multiplied by k/2.
func (w *author) edition(k int) string {
	return figure.ReplaceAllStringFunc(w.file, func(s string) string {
		n, _ := strconv.Atoi(s[1:])
		return strconv.Itoa(max(n*k/2, 1))
	})
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func (w *author) step(changes, who, method, path, body string) int {
	s := step{n: len(w.steps) + 1, method: method, path: path, body: body, changes: changes, who: who}
	w.steps = append(w.steps, s)
	return s.n
}

func (w *author) of(list []string) string { return list[w.IntN(len(list))] }

func (w *author) clock() {
	w.step("environment", "", "PUT", "/v1/clock", fmt.Sprintf(`{"now":%q}`, stamp(w.now)))
}

// who returns a customer, nearly always an existing one.
func (w *author) who() string {
	if w.IntN(40) == 0 {
		return "nobody"
	}
	return w.of(people[:1+w.IntN(len(people))]) // the first the most
}

// amount returns an amount, mostly a small one of the feature's precision, and
// sometimes one with too many digits.
func (w *author) amount(feature string) string {
	p := 0
	if f := w.c.Features[feature]; f != nil {
		p = f.Precision
	}
	n := w.IntN(4)
	switch w.IntN(8) {
	case 0:
		n = w.IntN(100)
	case 1, 2:
		n = w.IntN(15)
	}
	if p > 0 && w.IntN(2) == 0 || w.IntN(60) == 0 {
		return fmt.Sprintf(`"%d.%d"`, n, 1+w.IntN(9))
	}
	return strconv.Itoa(n)
}

// near returns an instant around now.
func (w *author) near(back, ahead time.Duration) time.Time {
	t := w.now.Add(-time.Duration(w.Int64N(int64(back))) + time.Duration(w.Int64N(int64(ahead))))
	if w.IntN(3) == 0 {
		t = t.Truncate(24 * time.Hour)
	}
	return t.Truncate(time.Second)
}

func (w *author) customer(who string) {
	body := fmt.Sprintf(`{"name":%q`, who)
	if w.IntN(2) == 0 {
		body += fmt.Sprintf(`,"timezone":%q`, w.of([]string{"America/New_York", "Europe/Berlin", "Asia/Tokyo", "Pacific/Apia",
			"America/Sao_Paulo"}))
	}
	if w.IntN(3) == 0 {
		body += fmt.Sprintf(`,"anchor":%q`, stamp(w.near(90*day, day)))
	}
	w.step("customer", who, "PUT", "/v1/customers/"+who, body+"}")
}

const day = 24 * time.Hour

func (w *author) addons() string {
	keys, list := sorted(w.c.Addons), []string{}
	for _, k := range keys {
		if w.IntN(3) == 0 {
			list = append(list, fmt.Sprintf(`{"addon":%q,"quantity":%d}`, k, 1+w.IntN(3)))
		}
	}
	return "[" + strings.Join(list, ",") + "]"
}

func (w *author) subscribe(who string) {
	body := fmt.Sprintf(`{"plan":%q,"addons":%s`, w.of(sorted(w.c.Plans)), w.addons())
	switch w.IntN(6) {
	case 0:
		body += fmt.Sprintf(`,"starts_at":%q`, stamp(w.near(60*day, 20*day)))
	case 1:
		body += fmt.Sprintf(`,"ends_at":%q`, stamp(w.now.Add(time.Duration(1+w.IntN(60))*day)))
	case 2:
		body += fmt.Sprintf(`,"anchor":%q`, stamp(w.near(60*day, day)))
	case 3:
		body += `,"trial_ends_at":null`
	}
	w.makes("subscription", w.step("customer", who, "POST", "/v1/customers/"+who+"/subscriptions", body+"}"))
}

func (w *author) makes(what string, n int) { w.made[what] = append(w.made[what], n) }

// made returns one of the created things, most often the newest; 0: there is none yet.
func (w *author) one(what string) int {
	list := w.made[what]
	if len(list) == 0 {
		return 0
	}
	if w.IntN(2) == 0 {
		return list[len(list)-1]
	}
	return list[w.IntN(len(list))]
}

// whose returns the customer of a step.
func (w *author) whose(n int) string { return w.steps[n-1].who }

func (w *author) value(feature string) string {
	f := w.c.Features[feature]
	switch w.IntN(6) {
	case 0:
		return `{"deny":true}`
	case 1, 2:
		if f.Kind.Counts() {
			return fmt.Sprintf(`{"add":%d}`, w.IntN(30)-8)
		}
	case 3:
		if f.Kind.Counts() {
			return `"unlimited"`
		}
	}
	switch {
	case f.Kind == usher.Switch:
		return w.of([]string{"true", "false"})
	case f.Kind == usher.Seats:
		return strconv.Itoa(w.IntN(5))
	case f.Kind.Counts():
		if w.IntN(2) == 0 {
			return fmt.Sprintf(`{"limit":%d}`, w.IntN(60))
		}
		return fmt.Sprintf(`{"limit":%d,"per":%q}`, w.IntN(60), w.of([]string{"day", "week", "month"}))
	}
	return w.of([]string{"5", `"high"`, `["q"]`, `"email"`})
}

// next writes one step, or two.
func (w *author) next() {
	who := w.who()
	base := "/v1/customers/" + who
	switch k := w.IntN(100); {
	case k < 11:
		spans := []time.Duration{time.Second, 20 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour, day, 7 * day, 31 * day}
		w.now = w.now.Add(1 + time.Duration(w.Int64N(int64(spans[w.IntN(len(spans))])))).Truncate(time.Second)
		if w.IntN(4) == 0 { // to the edge of a window, perhaps
			w.now = w.now.Truncate(time.Hour).Add(time.Hour)
		}
		w.clock()
	case k < 13:
		w.subscribe(who)
	case k < 15:
		if n := w.one("subscription"); n > 0 {
			body := []string{fmt.Sprintf(`"addons":%s`, w.addons()), fmt.Sprintf(`"plan":%q`, w.of(sorted(w.c.Plans))),
				fmt.Sprintf(`"status":%q`, w.of([]string{"active", "past_due", "suspended", "canceled"})),
				fmt.Sprintf(`"ends_at":%q`, stamp(w.now.Add(time.Duration(1+w.IntN(40))*day)))}[w.IntN(4)]
			if w.IntN(3) == 0 {
				body += fmt.Sprintf(`,"when":%q`, w.of([]string{"period_end", stamp(w.now.Add(5 * day))}))
			}
			w.step("customer", w.whose(n), "PATCH", fmt.Sprint("/v1/subscriptions/sub_", n), "{"+body+"}")
		}
	case k < 18:
		f := w.of(w.all)
		end := `"expires":"never"`
		if w.IntN(3) > 0 {
			end = fmt.Sprintf(`"expires_at":%q`, stamp(w.now.Add(time.Duration(1+w.IntN(500))*time.Hour)))
		}
		w.makes("override", w.step("customer", who, "POST", base+"/overrides",
			fmt.Sprintf(`{"feature":%q,"value":%s,"reason":"r",%s}`, f, w.value(f), end)))
	case k < 19:
		if n := w.one("override"); n > 0 {
			w.step("customer", w.whose(n), "DELETE", fmt.Sprint("/v1/overrides/ovr_", n), "")
		}
	case k < 22 && len(w.adds) > 0:
		f := w.of(w.adds)
		body := fmt.Sprintf(`{"feature":%q,"amount":%s,"reason":"r","kind":%q,"priority":%d`, f, w.amount(f),
			w.of([]string{"promotion", "purchase", "compensation"}), 50*w.IntN(5))
		if w.IntN(2) == 0 {
			body += fmt.Sprintf(`,"expires_at":%q`, stamp(w.now.Add(time.Duration(1+w.IntN(900))*time.Hour)))
		}
		if w.IntN(5) == 0 {
			body += fmt.Sprintf(`,"effective_at":%q`, stamp(w.now.Add(time.Duration(w.IntN(60)-20)*time.Hour)))
		}
		w.makes("grant", w.step("customer", who, "POST", base+"/grants", body+"}"))
	case k < 23:
		if n := w.one("grant"); n > 0 {
			w.step("customer", w.whose(n), "DELETE", fmt.Sprint("/v1/grants/gr_", n), "")
		}
	case k < 24:
		switch w.IntN(4) {
		case 0:
			w.customer(w.of(people))
		case 1:
			w.step("environment", "", "PUT", "/v1/catalog"+w.of([]string{"", "?migrate=all"}), w.edition(1+w.IntN(4)))
		case 2:
			if w.IntN(2) == 0 {
				w.step("customer", who, "DELETE", base, "")
			}
		}
	case k < 42 && len(w.adds) > 0:
		f := w.of(w.adds)
		if w.IntN(40) == 0 {
			f = w.of(append([]string{"no.such"}, w.all...))
		}
		n := len(w.steps) + 1
		w.makes("take", w.step("", who, "POST", "/v1/consume",
			fmt.Sprintf(`{"customer":%q,"feature":%q,"amount":%s,"key":"k%d"}`, who, f, w.amount(f), n)))
	case k < 48 && len(w.adds) > 0:
		f, n := w.of(w.adds), len(w.steps)+1
		w.step("", who, "POST", "/v1/reservations", fmt.Sprintf(`{"customer":%q,"feature":%q,"amount":%s,"ttl":%q,"key":"k%d"}`,
			who, f, w.amount(f), w.of([]string{"30s", "5m", "3h", "100h"}), n))
		w.makes("hold", n)
		w.makes("take", n)
	case k < 53:
		if n := w.one("hold"); n > 0 {
			how, body := w.of([]string{"settle", "settle", "release"}), ""
			if how == "settle" && w.IntN(3) > 0 {
				body = fmt.Sprintf(`{"amount":%s}`, w.amount(""))
			}
			w.step("", w.whose(n), "POST", fmt.Sprintf("/v1/reservations/rsv_%d/%s", n, how), body)
		}
	case k < 58:
		w.correct(who)
	case k < 61: // a retry
		if n := w.one("take"); n > 0 {
			s := w.steps[n-1]
			w.step("", s.who, s.method, s.path, s.body)
		}
	case k < 69 && len(w.seats) > 0:
		w.seat(who, base)
	case k < 76 && len(w.c.Meters) > 0:
		w.events(who)
	default:
		w.ask(who, base)
	}
}

func (w *author) correct(who string) {
	n := len(w.steps) + 1
	body := fmt.Sprintf(`,"amount":%s,"reason":"r","key":"k%d"`, w.amount(""), n)
	of, e := w.one("take"), w.one("event")
	switch {
	case e > 0 && w.IntN(2) == 0:
		if w.IntN(3) > 0 {
			body += fmt.Sprintf(`,"feature":%q`, w.of(w.adds))
		}
		w.step("", w.whose(e), "POST", "/v1/corrections", fmt.Sprintf(`{"ref":{"source":"s","id":"e%d.0"}%s}`, e, body))
	case of > 0:
		w.step("", w.whose(of), "POST", "/v1/corrections", fmt.Sprintf(`{"ref":"k%d"%s}`, of, body))
	default:
		return
	}
	w.makes("take", n)
}

func (w *author) seat(who, base string) {
	path := base + "/seats/" + w.of(w.seats)
	holder := path + "/h" + strconv.Itoa(w.IntN(6))
	switch w.IntN(5) {
	case 0:
		w.step("", who, "DELETE", holder, "")
	case 1:
		w.step("", who, "GET", path, "")
	default:
		w.step("", who, "PUT", holder, w.of([]string{"", `{}`, `{"state":"pending","ttl":"24h"}`, `{"ttl":"90s"}`, `{"state":"active"}`,
			fmt.Sprintf(`{"expires_at":%q}`, stamp(w.now.Add(time.Duration(w.IntN(200)-5)*time.Hour)))}))
	}
}

func (w *author) events(who string) {
	var types []string
	for _, k := range sorted(w.c.Meters) {
		types = append(types, w.c.Meters[k].Event)
	}
	n, list := len(w.steps)+1, []string{}
	for i := range 1 + w.IntN(4) {
		of := who
		id := fmt.Sprintf("e%d.%d", n, i)
		if old := w.one("event"); old > 0 && w.IntN(12) == 0 {
			id = fmt.Sprintf("e%d.0", old) // edited, or sent again
		}
		at := ""
		switch w.IntN(4) {
		case 0:
			at = fmt.Sprintf(`,"time":%q`, stamp(w.near(3*day, 2*time.Hour)))
		case 1:
			at = fmt.Sprintf(`,"time":%q`, stamp(w.near(45*day, time.Minute)))
		}
		list = append(list, fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"s","type":%q,"subject":%q%s,"data":{"n":%s,"kind":%q}}`,
			id, w.of(types), of, at, w.amount(""), w.of([]string{"a", "b", "c", "d"})))
	}
	w.makes("event", w.step("", who, "POST", "/v1/events", "["+strings.Join(list, ",")+"]"))
}

// ask asks after use, and about it.
func (w *author) ask(who, base string) {
	at := func() string {
		if w.IntN(6) == 0 {
			return stamp(w.near(60*day, 60*day))
		}
		return ""
	}
	one := func() string {
		f := w.of(w.all)
		if w.IntN(40) == 0 {
			f = "no.such"
		}
		body := fmt.Sprintf(`{"customer":%q,"feature":%q`, who, f)
		if w.IntN(2) == 0 {
			body += `,"amount":` + w.amount(f)
		}
		if t := at(); t != "" {
			body += fmt.Sprintf(`,"at":%q`, t)
		}
		return body + "}"
	}
	switch w.IntN(8) {
	case 0:
		w.step("", who, "POST", "/v1/check", one())
	case 1, 2:
		w.step("", who, "POST", "/v1/explain", one())
	case 3:
		query := ""
		if t := at(); t != "" {
			query = "?at=" + t
		}
		w.step("", who, "GET", base+"/entitlements"+query, "")
	default:
		list := []string{}
		for range 10 + w.IntN(30) {
			list = append(list, one())
		}
		w.step("", who, "POST", "/v1/check/batch", `{"checks":[`+strings.Join(list, ",")+`]}`)
	}
}
