package api

import (
	"strings"
	"testing"
	"time"
)

// TestA07_TheFutureTakesNothingFromThePresent: a caller who asks first about a time at
// which a role is over does not end it for those who ask about now.
func TestA07_TheFutureTakesNothingFromThePresent(t *testing.T) {
	peopleOnBoth(t, func(t *testing.T, w *world) {
		until, later := start.Add(time.Hour).Format(time.RFC3339), start.Add(2*time.Hour).Format(time.RFC3339)
		w.ask(t, 200, "PUT", "/v1/customers/firm/assignments", `{"member":"bob","role":"viewer","until":"`+until+`"}`)
		const who = `{"customer":"firm","member":"bob","permission":"report.read"`
		for _, s := range []struct{ at, want string }{{`,"at":"` + later + `"}`, "false no_role"}, {`}`, "true"},
			{`,"at":"` + later + `"}`, "false no_role"}} {
			if got := w.legs(t, who+s.at); !strings.HasPrefix(got, s.want) {
				t.Errorf("%s: got %s, want %s", s.at, got, s.want)
			}
		}
	})
}
