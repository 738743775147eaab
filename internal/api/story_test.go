package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/catalog"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/customers"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
	"github.com/usher-sh/usher/internal/story"
	"github.com/usher-sh/usher/internal/testpg"
	"github.com/usher-sh/usher/internal/usage"
)

func TestMain(m *testing.M) { testpg.Main(m) }

// TestStories_HTTP plays the engine's stories over HTTP, in a sandbox with a
// test clock, on SQLite and on PostgreSQL: the same lines, the same answers.
func TestStories_HTTP(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../engine/testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		for _, file := range files {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
				t.Parallel()
				playHTTP(t, file, filepath.Join(t.TempDir(), "usher.db"))
			})
		}
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		server, err := testpg.Default()
		if err != nil {
			t.Skip("no PostgreSQL binaries: ", err)
		}
		for _, file := range files {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
				dsn, err := server.NewDatabase(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				playHTTP(t, file, dsn)
			})
		}
	})
}

// actor plays one story against one server.
type actor struct {
	t       *testing.T
	where   string
	api     *server
	key     string
	now     time.Time
	catalog *usher.Catalog
	subs    map[string][][2]string // by customer: id and family, oldest first
	ids     map[string]string      // ovr_1 → the id that the server gave
	real    map[string]string      // and back
	refs    map[string]any         // what a correction calls the takes and events that the story names
	n       int                    // takes and events so far
	held    int                    // reservations so far
}

func playHTTP(t *testing.T, file, dsn string) {
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := story.Parse(src)
	if err != nil {
		t.Fatal(err)
	}
	// The clock is set before there is a catalogue: the first line's time, or 2026.
	first := "2026-01-01T00:00:00Z"
	if s.Lines[0].Verb == "at" {
		first = s.Lines[0].Args[0]
	}
	a := newActor(t, dsn, first)
	a.where = file
	a.apply(s, "catalog.yaml")
	for _, line := range s.Lines {
		a.where = fmt.Sprintf("%s:%d: %s", filepath.Base(file), line.Number, line.Text)
		a.play(s, line)
	}
}

// newActor starts a server on a database, in a sandbox whose clock was set.
func newActor(t *testing.T, dsn, now string) *actor {
	t.Helper()
	ctx := context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	db, err := store.Open(ctx, store.Config{DSN: dsn, MaxConns: 4})
	must(err)
	t.Cleanup(func() { db.Close() })
	l, err := live.New(ctx, live.Config{DB: db})
	must(err)
	u := usage.New(usage.Config{DB: db, Live: l})
	t.Cleanup(func() { u.Close(ctx) })
	keys := auth.New(auth.Config{DB: db})
	t.Cleanup(keys.Close)
	key, _, err := keys.Create(ctx, usher.Actor{Kind: "cli"}, usher.Sandbox, "story", auth.RoleAdmin, time.Time{})
	must(err)
	a := &actor{t: t, key: key, subs: map[string][][2]string{}, ids: map[string]string{}, real: map[string]string{}, refs: map[string]any{}}
	made := 0
	newID := func(prefix string) string { made++; return fmt.Sprintf("%s%06d", prefix, made) }
	a.api = serve(setup{T: t, API: Config{Live: l, Decide: decide.New(l), Usage: u, Auth: keys,
		Customers: customers.New(customers.Config{DB: db, Live: l, NewID: newID}),
		Catalog:   catalog.New(catalog.Config{DB: db, Live: l})}, Door: door.Config{Auth: keys}})
	a.call(200, "PUT", "/v1/clock", map[string]any{"now": now})
	a.now, err = usher.ParseTime(now)
	must(err)
	return a
}

// call sends a request and returns the body; any other status is fatal.
func (a *actor) call(status int, method, path string, body any) []byte {
	a.t.Helper()
	code, answer := a.exchange(method, path, body)
	if code != status && !(status == 200 && code == 201) {
		a.t.Fatalf("%s\n\t%s %s %+v: %d %s", a.where, method, path, body, code, answer)
	}
	return answer
}

// exchange sends a request and returns the status and the body.
func (a *actor) exchange(method, path string, body any) (int, []byte) {
	a.t.Helper()
	text, contentType := []byte(nil), "application/json"
	switch b := body.(type) {
	case nil:
	case []byte:
		text, contentType = b, "application/yaml"
	default:
		text, _ = json.Marshal(b)
	}
	r := httptest.NewRequest(method, path, bytes.NewReader(text))
	r.Header.Set("Authorization", "Bearer "+a.key)
	if body != nil {
		r.Header.Set("Content-Type", contentType)
	}
	if strings.HasSuffix(path, "/events") {
		r.Header.Set("Content-Type", "application/cloudevents-batch+json")
	}
	w := httptest.NewRecorder()
	a.api.ServeHTTP(w, r)
	return w.Code, w.Body.Bytes()
}

// apply sends a catalogue. Features that a story reports use of get a meter,
// where they have none: over HTTP, use is reported by events.
func (a *actor) apply(s *story.Story, name string) {
	a.t.Helper()
	c, err := catalogfile.Parse(name, s.Files[name])
	if err != nil {
		a.t.Fatal(err)
	}
	for _, l := range s.Lines {
		if l.Verb != "record" {
			continue
		}
		f := c.Features[l.Args[1]]
		if f == nil || f.Meter != "" {
			continue
		}
		if f.Kind != usher.Metered {
			a.t.Skipf("%s: use of %s cannot be reported by events", a.where, f.Kind)
		}
		if c.Meters == nil {
			c.Meters = map[string]*usher.Meter{}
		}
		f.Meter = "story." + f.Key
		c.Meters[f.Meter] = &usher.Meter{Key: f.Meter, Event: f.Meter, Aggregation: usher.Sum, Field: "data.value"}
	}
	a.catalog = c
	a.call(200, "PUT", "/v1/catalog", catalogfile.Format(c))
}

func (a *actor) play(s *story.Story, l story.Line) {
	a.t.Helper()
	who := l.Args[0]
	base := "/v1/customers/" + url.PathEscape(who)
	body := map[string]any{}
	copyOpts := func(names ...string) {
		for _, n := range names {
			if v, ok := l.Opts[n]; ok {
				body[n] = v
				if v == "null" {
					body[n] = nil
				}
			}
		}
	}
	addons := func() {
		v, ok := l.Opts["addons"]
		if !ok {
			return
		}
		list := []map[string]any{}
		for _, part := range strings.Split(v, ",") {
			if part == "none" {
				continue
			}
			key, times, _ := strings.Cut(part, ":")
			n, _ := strconv.Atoi(cmp.Or(times, "1"))
			list = append(list, map[string]any{"addon": key, "quantity": n})
		}
		body["addons"] = list
	}
	id := func(b []byte) string {
		var v struct {
			ID     string `json:"id"`
			Family string `json:"family"`
		}
		if err := json.Unmarshal(b, &v); err != nil || v.ID == "" {
			a.t.Fatalf("%s\n\tno id in %s", a.where, b)
		}
		if l.Verb == "subscribe" {
			a.subs[who] = append(a.subs[who], [2]string{v.ID, v.Family})
		}
		return v.ID
	}
	name := func(prefix string, b []byte) {
		n := 1
		for a.ids[fmt.Sprint(prefix, n)] != "" {
			n++
		}
		got := id(b)
		a.ids[fmt.Sprint(prefix, n)], a.real[got] = got, fmt.Sprint(prefix, n)
	}
	switch l.Verb {
	case "at":
		a.call(200, "PUT", "/v1/clock", map[string]any{"now": who})
		a.now, _ = usher.ParseTime(who)
	case "catalog":
		a.apply(s, who)
	case "customer":
		copyOpts("timezone", "anchor")
		a.call(200, "PUT", base, body)
	case "subscribe":
		body["plan"] = l.Args[1]
		copyOpts("starts_at", "ends_at", "trial_ends_at", "anchor")
		addons()
		id(a.call(201, "POST", base+"/subscriptions", body))
	case "patch":
		sub := ""
		for _, s := range a.subs[who] {
			if len(l.Args) == 1 || s[1] == l.Args[1] {
				sub = s[0]
			}
		}
		copyOpts("plan", "status", "ends_at", "when")
		addons()
		a.call(200, "PATCH", "/v1/subscriptions/"+sub, body)
	case "override":
		body["feature"], body["value"], body["reason"] = l.Args[1], json.RawMessage(l.Args[2]), "story"
		copyOpts("expires_at")
		if body["expires_at"] == nil {
			body["expires"] = "never"
		}
		name("ovr_", a.call(201, "POST", base+"/overrides", body))
	case "unoverride":
		a.call(204, "DELETE", "/v1/overrides/"+a.ids[who], nil)
	case "grant":
		body["feature"], body["amount"], body["reason"] = l.Args[1], l.Args[2], "story"
		copyOpts("kind", "effective_at", "expires_at")
		if p, ok := l.Opts["priority"]; ok {
			body["priority"], _ = strconv.Atoi(p)
		}
		name("gr_", a.call(201, "POST", base+"/grants", body))
	case "void":
		a.call(204, "DELETE", "/v1/grants/"+a.ids[who], nil)
	case "record":
		a.record(l)
	case "check", "consume", "explain", "reserve":
		a.ask(l)
	case "settle", "release":
		if len(l.Args) > 1 {
			body["amount"] = l.Args[1]
		}
		a.decide(l, "POST", "/v1/reservations/"+cmp.Or(a.ids[who], who)+"/"+l.Verb, body)
	case "correct":
		a.n++
		ref, ok := a.refs[who]
		if !ok {
			ref = who
		}
		a.decide(l, "POST", "/v1/corrections", map[string]any{"ref": ref, "amount": l.Args[1], "reason": "story", "key": fmt.Sprint("key-", a.n)})
	case "seat":
		copyOpts("state", "expires_at", "ttl")
		a.decide(l, "PUT", base+"/seats/"+l.Args[1]+"/"+l.Args[2], body)
	case "unseat":
		a.call(204, "DELETE", base+"/seats/"+l.Args[1]+"/"+l.Args[2], nil)
	case "seats":
		a.seats(l, base)
	default:
		a.t.Fatalf("%s\n\tnobody plays %s", a.where, l.Verb)
	}
}

// seats compares the whole list of holders, read in pages of two.
func (a *actor) seats(l story.Line, base string) {
	a.t.Helper()
	var got []string
	for cursor := ""; ; {
		var page struct {
			Data []usher.Seat `json:"data"`
			Next string       `json:"next_cursor"`
		}
		text := a.call(200, "GET", base+"/seats/"+l.Args[1]+"?limit=2&cursor="+url.QueryEscape(cursor), nil)
		if err := json.Unmarshal(text, &page); err != nil {
			a.t.Fatalf("%s\n\t%s: %v", a.where, text, err)
		}
		for i := range page.Data {
			got = append(got, story.SeatWord(&page.Data[i]))
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if !slices.Equal(got, l.Expect.Seats) {
		a.t.Errorf("%s\n\tgot %q", a.where, got)
	}
}

// record reports use as events of the feature's meter.
func (a *actor) record(l story.Line) {
	a.t.Helper()
	f := a.catalog.Features[l.Args[1]]
	m := a.catalog.Meters[f.Meter]
	events := 1
	data := map[string]any{}
	set := func(path string, v any) {
		into := data
		parts := strings.Split(strings.TrimPrefix(path, "data."), ".")
		for _, p := range parts[:len(parts)-1] {
			if into[p] == nil {
				into[p] = map[string]any{}
			}
			into = into[p].(map[string]any)
		}
		into[parts[len(parts)-1]] = v
	}
	if m.Aggregation == usher.Count {
		events, _ = strconv.Atoi(l.Args[2])
	} else {
		set(m.Field, l.Args[2])
	}
	for path, accepted := range m.Where {
		set(path, accepted[0])
	}
	batch := []map[string]any{}
	for range events {
		a.n++
		batch = append(batch, map[string]any{"specversion": "1.0", "id": fmt.Sprint(a.n), "source": "story", "type": m.Event,
			"subject": l.Args[0],
			"time":    cmp.Or(l.Opts["at"], a.now.Format(time.RFC3339Nano)), "data": data})
	}
	if as := l.Opts["as"]; as != "" {
		a.refs[as] = map[string]any{"source": "story", "id": fmt.Sprint(a.n)}
	}
	for len(batch) > 0 {
		n := min(len(batch), usage.MaxEvents)
		var got usher.IngestResult
		if err := json.Unmarshal(a.call(200, "POST", "/v1/events", batch[:n]), &got); err != nil || got.Accepted != n {
			a.t.Fatalf("%s\n\t%+v %v", a.where, got, err)
		}
		batch = batch[n:]
	}
}

func (a *actor) ask(l story.Line) {
	a.t.Helper()
	body := map[string]any{"customer": l.Args[0], "feature": l.Args[1]}
	if len(l.Args) > 2 {
		body["amount"] = l.Args[2]
	}
	if at, ok := l.Opts["at"]; ok {
		body["at"] = at
	}
	path := l.Verb
	switch l.Verb {
	case "consume", "reserve":
		a.n++
		key := fmt.Sprint("key-", a.n)
		body["key"] = key
		if as := l.Opts["as"]; as != "" {
			a.refs[as] = key
		}
		if l.Verb == "consume" {
			break
		}
		path = "reservations"
		if ttl := l.Opts["ttl"]; ttl != "" {
			body["ttl"] = ttl
		}
		if l.Expect.Allowed {
			a.held++
			a.refs[fmt.Sprint("rsv_", a.held)] = key
		}
	case "explain":
		text := a.named(a.call(http.StatusOK, "POST", "/v1/explain", body))
		for _, want := range l.Expect.Contains {
			if !strings.Contains(string(text), want) {
				a.t.Errorf("%s\n\tgot %s\n\twant it to contain %q", a.where, text, want)
			}
		}
		return
	}
	d := a.decide(l, "POST", "/v1/"+path, body)
	if d.Reservation != nil {
		name := fmt.Sprint("rsv_", a.held)
		a.ids[name], a.real[d.Reservation.ID] = d.Reservation.ID, name
	}
}

// named is an answer with the server's ids as the story calls them.
func (a *actor) named(text []byte) []byte {
	for got, want := range a.real {
		text = bytes.ReplaceAll(text, []byte(got), []byte(want))
	}
	return text
}

// decide sends a call that answers with a decision, and compares it.
func (a *actor) decide(l story.Line, method, path string, body any) (d usher.Decision) {
	a.t.Helper()
	code, text := a.exchange(method, path, body)
	text = a.named(text)
	if code >= 400 || l.Expect.Error != "" {
		var p struct{ Code string }
		json.Unmarshal(text, &p)
		if l.Expect.Error == "" || p.Code != l.Expect.Error {
			a.t.Errorf("%s\n\tgot %d %s", a.where, code, text)
		}
		return d
	}
	if err := json.Unmarshal(text, &d); err != nil {
		a.t.Fatalf("%s\n\t%s: %v", a.where, text, err)
	}
	if d.Allowed != l.Expect.Allowed || string(d.Reason) != l.Expect.Reason {
		a.t.Errorf("%s\n\tgot %s", a.where, text)
	}
	for _, f := range l.Expect.Fields {
		if got := story.Figure(&d, f.Name); got != f.Value {
			a.t.Errorf("%s\n\tgot %s %s, want %s\n\tin %s", a.where, f.Name, got, f.Value, text)
		}
	}
	return d
}
