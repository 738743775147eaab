package api

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

// TestEntitlements: a table has an ETag that changes with use, with changes and with
// time, and with nothing else; with it, an answer that the caller has is a 304.
func TestEntitlements(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const path = "/v1/customers/acme/entitlements"
	got := w.do("GET", path, "", "")
	etag := got.Header().Get("Etag")
	if got.Code != 200 || !strings.HasPrefix(etag, `W/"`) {
		t.Fatalf("got %d, ETag %q, want 200 and a weak tag\n%s", got.Code, etag, got.Body)
	}
	var table struct {
		Data     []usher.Decision
		Revision int64
	}
	if err := json.Unmarshal(got.Body.Bytes(), &table); err != nil || table.Revision == 0 || len(table.Data) != 6 {
		t.Fatalf("got %v %s, want six decisions and a revision", err, got.Body)
	}
	until := time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
	if d := table.Data[0]; d.Feature != "api_calls" || !d.ValidUntil.Equal(until) || d.Allows(100).Reason != usher.WithinLimit ||
		d.Allows(101).Reason != usher.LimitReached {
		t.Errorf("got %+v, want api_calls with 100 left, valid until the month ends", d)
	}
	same := func(what string, want bool) {
		t.Helper()
		got := w.do("GET", path, "", "", "If-None-Match", `"other", `+etag)
		if (got.Code == 304) != want || want && got.Body.Len() > 0 {
			t.Errorf("%s: got %d with %d bytes, want a 304: %v", what, got.Code, got.Body.Len(), want)
		}
		etag = got.Header().Get("Etag")
	}
	same("nothing changed", true)
	w.pass(time.Hour)
	same("an hour passed", true)
	w.do("POST", "/v1/consume", "application/json", `{"customer":"acme","feature":"api_calls","key":"1"}`)
	same("a unit was used", false)
	same("nothing changed since", true)
	w.pass(until.Sub(w.now()) - time.Microsecond)
	same("the month has almost ended", true)
	w.pass(time.Microsecond)
	same("the month has ended", false)
	w.want(w.do("GET", path+"?member=", "", ""), 400, bad("query.member|must not be empty"))
	w.want(w.do("GET", path+"?nobody=x", "", ""), 400, bad("query.nobody|unknown parameter; known parameters: at, member"))
	got = w.do("GET", path+"?member=ann", "", "")
	if err := json.Unmarshal(got.Body.Bytes(), &table); err != nil || len(table.Data) != 6 {
		t.Fatalf("got %v %s", err, got.Body)
	}
	for _, d := range table.Data {
		if d.Member != "ann" || d.Reason != usher.UnknownMember || d.Allows(1).Reason != usher.UnknownMember {
			t.Errorf("got %+v, want no for a member that is not registered", d)
		}
	}
}
