package usher_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/story"
)

// TestExamples: every example is a catalogue that usher reads, reads again as
// it writes it, and a page that says what to notice.
func TestExamples(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("examples/*/catalog.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("found %d examples (%v), want at least 3", len(files), err)
	}
	index, err := os.ReadFile("examples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c, err := catalogfile.Parse(file, src)
			if err != nil {
				t.Fatal(err)
			}
			again, err := catalogfile.Parse(file, catalogfile.Format(c))
			if err != nil {
				t.Fatalf("its canonical form is refused: %v", err)
			}
			if got, want := catalogfile.Hash(again), catalogfile.Hash(c); got != want {
				t.Errorf("the hash of its canonical form is %s, want %s", got, want)
			}
			for key, f := range c.Features { // a feature that nobody sells is a mistake of ours
				sold := false
				for _, p := range c.Plans {
					sold = sold || p.Entitlements[key] != nil
				}
				for _, a := range c.Addons {
					sold = sold || a.Entitlements[key] != nil
				}
				if !sold {
					t.Errorf("feature %s (%s) is in no plan and no add-on", key, f.Kind)
				}
			}
			page, err := os.ReadFile(filepath.Join(dir, "README.md"))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(page), "What to notice") {
				t.Errorf("%s/README.md does not say what to notice", dir)
			}
			stories, err := filepath.Glob(filepath.Join(dir, "*.txt"))
			if err != nil || len(stories) == 0 {
				t.Errorf("%s has no story: what it promises is not tried (%v)", dir, err)
			}
			for _, name := range stories {
				t.Run(filepath.Base(name), func(t *testing.T) { tell(t, name, src, c) })
			}
			if !strings.Contains(string(index), "("+filepath.Base(dir)+"/README.md)") {
				t.Errorf("examples/README.md does not list %s", dir)
			}
		})
	}
}

// tell runs an example's story on the engine. The story is of the form of those
// in engine/testdata, but has no catalogue: that is the folder's. It may use
// the few verbs below.
func tell(t *testing.T, name string, src []byte, c *usher.Catalog) {
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := story.Parse(bytes.Join([][]byte{text, []byte("\n-- catalog.yaml --\n"), src}, nil))
	if err != nil {
		t.Fatal(err)
	}
	var plans []usher.PlanVersion
	for key := range c.Plans {
		plans = append(plans, usher.PlanVersion{Version: 1, Plan: *catalogfile.Resolve(c, key)})
	}
	var addons []usher.AddonVersion
	for _, a := range c.Addons {
		addons = append(addons, usher.AddonVersion{Version: 1, Addon: *a})
	}
	w := &world{book: engine.NewBook(c, plans, addons)}
	w.facts.Book = w.book
	for _, l := range s.Lines {
		got, err := w.step(l)
		if err != nil {
			t.Fatalf("%s:%d: %s: %v", name, l.Number, l.Text, err)
		}
		if l.Expect == nil {
			continue
		}
		if got.Allowed != l.Expect.Allowed || string(got.Reason) != l.Expect.Reason {
			t.Errorf("%s:%d: %s: got %v %s", name, l.Number, l.Text, got.Allowed, got.Reason)
		}
		shown := figures(t, got)
		for _, f := range l.Expect.Fields {
			if v, ok := shown[f.Name]; v != cmp.Or(f.Value, "true") || !ok {
				t.Errorf("%s:%d: %s: got %s=%s", name, l.Number, l.Text, f.Name, v)
			}
		}
	}
}

// world is one customer of a story, and its use.
type world struct {
	now     time.Time
	book    *engine.Book
	facts   engine.Facts
	buckets map[engine.BucketKey]engine.Bucket
}

func (w *world) step(l story.Line) (d usher.Decision, err error) {
	when := func(name string) *time.Time {
		if l.Opts[name] == "" {
			return nil
		}
		var at time.Time
		if at, err = usher.ParseTime(l.Opts[name]); err != nil {
			return nil
		}
		return &at
	}
	switch l.Verb {
	case "at":
		w.now, err = usher.ParseTime(l.Args[0])
	case "customer":
		w.facts.Customer = &usher.Customer{ID: l.Args[0], CreatedAt: w.now,
			Clocks: []usher.Clock{{From: w.now, Anchor: w.now, Timezone: l.Opts["timezone"]}}}
		w.buckets = map[engine.BucketKey]engine.Bucket{}
	case "subscribe":
		p, ok := w.book.Newest(l.Args[1])
		if !ok {
			return d, fmt.Errorf("no such plan")
		}
		held := []usher.HeldAddon{}
		for _, item := range strings.FieldsFunc(l.Opts["addons"], func(c rune) bool { return c == ',' }) {
			key, times, _ := strings.Cut(item, ":")
			a, ok := w.book.NewestAddon(key)
			n, err := strconv.Atoi(cmp.Or(times, "1"))
			if !ok || err != nil {
				return d, fmt.Errorf("no such add-on %s", item)
			}
			held = append(held, usher.HeldAddon{Addon: a.Ref(), Quantity: n})
		}
		for i := range w.facts.Subscriptions { // one of a family at a time
			if s := &w.facts.Subscriptions[i]; s.Family == p.Family && s.EndsAt == nil {
				end := w.now
				s.EndsAt = &end
			}
		}
		w.facts.Subscriptions = append(w.facts.Subscriptions,
			usher.Subscription{ID: fmt.Sprintf("sub_%d", len(w.facts.Subscriptions)+1), Customer: l.Args[0],
				Family: p.Family, StartsAt: w.now, CreatedAt: w.now,
				Phases: []usher.Phase{{At: w.now, Plan: &usher.HeldPlan{Ref: p.Ref()}, Addons: &held}}})
	case "patch":
		s := &w.facts.Subscriptions[len(w.facts.Subscriptions)-1]
		s.Phases = append(s.Phases, usher.Phase{At: w.now, Status: usher.Status(l.Opts["status"])})
	case "grant":
		var n int64
		n, err = usher.ParseQuantity(l.Args[2], w.book.Features[l.Args[1]].Precision)
		w.facts.Grants = append(w.facts.Grants, usher.Grant{ID: fmt.Sprintf("gr_%d", len(w.facts.Grants)+1), Customer: l.Args[0],
			Feature: l.Args[1],
			Amount:  n, Kind: usher.GrantKind(l.Opts["kind"]), Priority: usher.DefaultPriority, EffectiveAt: w.now, ExpiresAt: when("expires_at"),
			CreatedAt: w.now})
	case "record", "consume", "check":
		f := w.book.Features[l.Args[1]]
		amount := int64(0)
		if f != nil && f.Kind.Counts() {
			text := "1"
			if len(l.Args) > 2 {
				text = l.Args[2]
			}
			if amount, err = usher.ParseQuantity(text, f.Precision); err != nil {
				return d, err
			}
		}
		var buckets []engine.Bucket
		for _, b := range w.buckets {
			buckets = append(buckets, b)
		}
		s := engine.NewSnapshot(engine.NewWorld(w.facts), 1, buckets, nil)
		if l.Verb == "check" {
			return engine.Decide(s, engine.Query{Customer: l.Args[0], Feature: l.Args[1], Amount: amount}, w.now), err
		}
		op := engine.Op{Kind: engine.Consume, Customer: l.Args[0], Feature: l.Args[1], Amount: amount}
		if l.Verb == "record" {
			op.Kind = engine.Record
			if w.book.Gauge(f) {
				op.Kind = engine.Level
			}
		}
		d = engine.Take(s, op, w.now).Decision
		for _, b := range s.Dirty() {
			w.buckets[b.BucketKey] = b
		}
	default:
		err = fmt.Errorf("examples do not %s", l.Verb)
	}
	return d, err
}

// figures is a decision as the API shows it, each member as text; deductions
// are "allowance:amount", joined by commas.
func figures(t *testing.T, d usher.Decision) map[string]string {
	t.Helper()
	shown := map[string]json.RawMessage{}
	if err := json.Unmarshal(d.AppendJSON(nil), &shown); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for name, v := range shown {
		out[name] = strings.Trim(string(v), `"`)
	}
	var burned []string
	for _, x := range d.Deductions {
		precision := d.Precision
		if x.Feature != "" {
			precision = x.Precision
		}
		burned = append(burned, x.Allowance+":"+usher.FormatQuantity(x.Amount, precision))
	}
	out["deductions"] = strings.Join(burned, ",")
	return out
}
