package api

import (
	"github.com/usher-sh/usher/internal/door"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestOneEnvironmentIsSaid: of two, a proxy in front may believe the other.
func TestOneEnvironmentIsSaid(t *testing.T) {
	t.Parallel()
	o := newOffice(t, nil)
	cookie := o.owner("ada@example.com")
	if got := o.send("GET", "/v1/clock", "", cookie, "Usher-Environment", "sandbox"); got.Code != 200 {
		t.Fatalf("got %d %s", got.Code, got.Body)
	}
	for _, pair := range [][2]string{{"sandbox", "production"}, {"sandbox", "sandbox"}, {"", "sandbox"}} {
		r := httptest.NewRequest("GET", "https://usher.example.com/v1/clock", nil)
		r.Header = http.Header{"Cookie": {door.SessionCookie + "=" + cookie}, "Sec-Fetch-Site": {"same-origin"}, "Usher-Environment": pair[:]}
		got := httptest.NewRecorder()
		if o.api.ServeHTTP(got, r); got.Code != 400 {
			t.Errorf("%q: got %d %s, want 400", pair, got.Code, got.Body)
		}
	}
}
