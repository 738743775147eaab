package ushertest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/ushertest"
)

const catalog = `
usher: 1
features:
  sso:     {kind: switch}
  exports: {kind: metered, unit: export}
plans:
  pro:
    entitlements:
      sso: true
      exports: {limit: 1000, per: day, anchor: calendar}
addons:
  export-pack: {entitlements: {exports: {limit: 50, per: day, anchor: calendar}}}
`

// ask is what a product does: it checks a feature over HTTP.
func ask(t testing.TB, s *ushertest.Server, customer, feature string) (d usher.Decision) {
	t.Helper()
	body := fmt.Sprintf(`{"customer":%q,"feature":%q}`, customer, feature)
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/v1/check", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.Key)
	r.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&d); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", res.Status, err)
	}
	return d
}

// A product's test of what happens at a limit.
func Example() {
	test := func(t *testing.T) {
		u := ushertest.New(t, catalog)
		u.Customer("acme").On("pro").Used("exports", 1000)
		if d := ask(t, u, "acme", "exports"); d.Allowed {
			t.Error("acme may export more than its limit")
		}
		u.Advance(24 * time.Hour) // a new day has its own limit
		if d := ask(t, u, "acme", "exports"); !d.Allowed {
			t.Error("acme may not export on the next day")
		}
	}
	_ = test
}

func TestCustomersAndTime(t *testing.T) {
	t.Parallel()
	u := ushertest.New(t, catalog)
	if d := ask(t, u, "acme", "sso"); d.Reason != usher.UnknownCustomer {
		t.Errorf("before acme is there: %+v", d)
	}
	u.Customer("acme").On("pro").With("export-pack", 2).With("export-pack", 1).Used("exports", 1000).Used("exports", 150)
	if d := ask(t, u, "acme", "sso"); !d.Allowed {
		t.Errorf("sso: %+v", d)
	}
	if d := ask(t, u, "acme", "exports"); d.Allowed || d.Used != 1150 || d.Limit != 1150 {
		t.Errorf("at the limit: %+v", d)
	}
	before := u.Now()
	u.Advance(24 * time.Hour)
	if got := u.Now().Sub(before); got != 24*time.Hour {
		t.Errorf("the clock moved by %v", got)
	}
	if d := ask(t, u, "acme", "exports"); !d.Allowed || d.Used != 0 {
		t.Errorf("on the next day: %+v", d)
	}
	u.Customer("acme") // again: as it is
	if d := ask(t, u, "acme", "sso"); !d.Allowed {
		t.Errorf("sso after Customer was called again: %+v", d)
	}
}

// TestFarAhead: a year and more may pass at once, with all that happens daily.
func TestFarAhead(t *testing.T) {
	t.Parallel()
	u := ushertest.New(t, catalog)
	u.Customer("acme").On("pro").Used("exports", 7)
	for range 3 {
		u.Advance(200 * 24 * time.Hour)
		u.Customer("acme").Used("exports", 7)
	}
	if d := ask(t, u, "acme", "exports"); !d.Allowed || d.Used != 7 {
		t.Errorf("got %+v", d)
	}
}

// recorder is a test that ends as testing.T does, but does not fail this one.
type recorder struct {
	testing.TB
	said string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.said = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// TestRefusals: a mistake in a test ends it with what would be right.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(t testing.TB)
		says string
	}{
		"catalogue": {func(t testing.TB) { ushertest.New(t, "usher: 1\nfeatures: {sso: {kind: swich}}\n") }, "swich"},
		"plan":      {func(t testing.TB) { ushertest.New(t, catalog).Customer("acme").On("gold") }, "gold"},
		"add-on":    {func(t testing.TB) { ushertest.New(t, catalog).Customer("acme").On("pro").With("none", 1) }, "none"},
		"no plan":   {func(t testing.TB) { ushertest.New(t, catalog).Customer("acme").With("export-pack", 1) }, "call On first"},
		"too much":  {func(t testing.TB) { ushertest.New(t, catalog).Customer("acme").On("pro").Used("exports", 1001) }, "limit_reached"},
		"back":      {func(t testing.TB) { ushertest.New(t, catalog).Advance(-1) }, "only moves forwards"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &recorder{TB: t}
			done := make(chan struct{})
			go func() { defer close(done); c.do(r) }()
			<-done
			if !strings.Contains(r.said, c.says) {
				t.Errorf("got %q, want %q in it", r.said, c.says)
			}
		})
	}
}
