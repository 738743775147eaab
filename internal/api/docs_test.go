package api

import (
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/ledger"
)

// TestDocsRoutes: http.md lists exactly the routes of the OpenAPI document,
// which are those of the table.
func TestDocsRoutes(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/reference/http.md")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	documented := map[string]bool{}
	for path, item := range w.api.Document().Paths {
		for method, op := range map[string]any{"GET": item.Get, "PUT": item.Put, "POST": item.Post, "PATCH": item.Patch, "DELETE": item.Delete} {
			if op != (*huma.Operation)(nil) {
				documented[method+" "+path] = true
			}
		}
	}
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)`([A-Z]+ /[^`?]*)[`?]").FindAllSubmatch(page, -1) {
		listed[string(m[1])] = true
	}
	var table []string
	for _, rt := range w.api.Routes() {
		table = append(table, rt.Pattern)
		if !listed[rt.Pattern] {
			t.Errorf("http.md does not list `%s`", rt.Pattern)
		}
		if !documented[rt.Pattern] {
			t.Errorf("the OpenAPI document does not have %s", rt.Pattern)
		}
	}
	for pattern := range listed {
		if !slices.Contains(table, pattern) {
			t.Errorf("http.md lists `%s`, which is not a route", pattern)
		}
	}
	for pattern := range documented {
		if !slices.Contains(table, pattern) {
			t.Errorf("the OpenAPI document has %s, which is not a route", pattern)
		}
	}
}

// TestDocsStates: terms.md says what each state of a reservation and of a seat
// is, and each outcome of a denial; the OpenAPI document lists exactly these.
func TestDocsStates(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/terms.md")
	if err != nil {
		t.Fatal(err)
	}
	schemas := newWorld(t).api.Document().Components.Schemas.Map()
	for _, c := range []struct {
		schema, member string
		want           []string
	}{
		{"HeldReservation", "state", []string{string(usher.ReservationOpen), string(usher.ReservationSettled),
			string(usher.ReservationReleased), string(usher.ReservationExpired)}},
		{"Reservation", "state", []string{string(usher.ReservationOpen), string(usher.ReservationSettled), string(usher.ReservationReleased),
			string(usher.ReservationExpired)}},
		{"Seat", "state", []string{string(usher.SeatActive), string(usher.SeatPending)}},
		{"SeatInput", "state", []string{string(usher.SeatActive), string(usher.SeatPending)}},
		{"Denial", "outcome", []string{ledger.OutcomeDenied, ledger.OutcomeWarned, ledger.OutcomeShadowed, ledger.OutcomeExcess}},
	} {
		s := schemas[c.schema]
		if s == nil || s.Properties[c.member] == nil {
			t.Errorf("the OpenAPI document has no %s.%s", c.schema, c.member)
			continue
		}
		values := s.Properties[c.member]
		if values.Ref != "" {
			values = schemas[path.Base(values.Ref)]
		}
		var got []string
		for _, v := range values.Enum {
			got = append(got, v.(string))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s.%s: got %q, want %q", c.schema, c.member, got, c.want)
		}
		for _, code := range c.want {
			if !strings.Contains(string(page), "`"+code+"`") {
				t.Errorf("terms.md does not explain `%s`", code)
			}
		}
	}
}
