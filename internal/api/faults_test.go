package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

// TestS24_Overflow: nothing is counted beyond what can be counted, and a limit
// of what can be given is the whole of it.
func TestS24_Overflow(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		const most = "9223372036854775807"
		grant := func(amount, key string) (int, string) {
			got := w.json("POST", "/v1/customers/acme/grants", `{"feature":"calls","amount":`+amount+`,"reason":"r","key":"`+key+`"}`)
			return got.Code, strings.TrimSpace(got.Body.String())
		}
		if status, body := grant("9223372036854775808", "g0"); status != 400 {
			t.Errorf("a grant of an amount that is not a number: got %d %s, want 400", status, body)
		}
		if status, body := grant("9223372036854775000", "g1"); status != 201 {
			t.Fatalf("got %d %s", status, body)
		}
		if status, body := grant("1000", "g2"); status != 400 || !strings.Contains(body, `"errors":[{"location":"body.amount","message":"is,`+
			` together with the customer's other grants, beyond what can be counted (at most 9223372036854775807)"}]`) {
			t.Errorf("a second grant beyond what can be counted: got %d %s, want 400", status, body)
		}
		if status, body := grant("707", "g3"); status != 201 {
			t.Errorf("a second grant up to what can be counted: got %d %s, want 201", status, body)
		}
		// The plan's 100 come on top: the sum stays at the most, and does not turn negative.
		got := w.json("POST", "/v1/check", `{"customer":"acme","feature":"calls","amount":`+most+`}`)
		if !strings.Contains(got.Body.String(), `"allowed":true`) || !strings.Contains(got.Body.String(), `"limit":`+most+
			`,"used":0,"reserved":0,"remaining":`+most) {
			t.Errorf("check: got %s", got.Body)
		}
		var d usher.Decision
		got = w.json("POST", "/v1/reservations", `{"customer":"acme","feature":"calls","amount":`+most+`,"key":"h1"}`)
		if err := json.Unmarshal(got.Body.Bytes(), &d); err != nil || got.Code != 201 {
			t.Fatalf("got %d %s, %v", got.Code, got.Body, err)
		}
		got = w.json("POST", "/v1/consume", `{"customer":"acme","feature":"calls","amount":`+most+`,"key":"c1"}`)
		if got.Code != 200 || !strings.Contains(got.Body.String(), `"allowed":false`) {
			t.Errorf("a consume of as much again: got %d %s, want a denial", got.Code, got.Body)
		}
		got = w.json("POST", "/v1/reservations/"+d.Reservation.ID+"/settle", ``)
		if got.Code != 200 || !strings.Contains(got.Body.String(), `"used":`+most) {
			t.Errorf("settle: got %d %s, want all of it used", got.Code, got.Body)
		}
		// An event beyond that is rejected by itself, and nothing turns negative.
		w.want(w.json("POST", "/v1/events", event("e1", `{"tokens":`+most+`}`), "Content-Type", eventType), 200,
			`{"accepted":1,"duplicates":0,"rejected":[]}`)
		got = w.json("POST", "/v1/events", "["+event("e2", `{"tokens":1}`)+
			`,{"specversion":"1.0","id":"e3","source":"s","type":"llm.completion","subject":"odd/näme ?&%","data":{"tokens":1}}]`, "Content-Type",
			eventsType)
		if got.Code != 200 || !strings.HasPrefix(got.Body.String(), `{"accepted":1,"duplicates":0,"rejected":[{"index":0,"code":"overflow",`) {
			t.Errorf("an event too much: got %d %s, want it rejected as overflow", got.Code, got.Body)
		}
	})
}

// TestS17_HalfABatchIsBad: 10,000 events, each second one bad in one of five
// ways; the good ones are counted and every bad one is named.
func TestS17_HalfABatchIsBad(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		const n = 10_000
		ways := []struct{ event, code string }{
			{`{"specversion":"1.0","id":"%d","source":"s","type":"llm.completion","subject":"acme"}`, "invalid_value"},
			{`{"specversion":"1.0","id":"%d","source":"s","type":"llm.completion","subject":"nobody","data":{"tokens":1}}`, "unknown_customer"},
			{`{"specversion":"0.3","id":"%d","source":"s","type":"llm.completion","subject":"acme","data":{"tokens":1}}`, "invalid"},
			{`{"specversion":"1.0","id":"%d","source":"s","type":"llm.completion","subject":"acme","time":"2025-01-01T00:00:00Z",` +
				`"data":{"tokens":1}}`, "too_late"},
			{`{"specversion":"1.0","id":"%d","source":"s","type":"llm.completion","subject":"acme","data":{"tokens":-1}}`, "invalid_value"},
		}
		var b strings.Builder
		for i := range n {
			b.WriteByte("[,"[min(i, 1)])
			if i%2 == 0 {
				b.WriteString(event(fmt.Sprint(i), `{"tokens":1}`))
			} else {
				fmt.Fprintf(&b, ways[i/2%len(ways)].event, i)
			}
		}
		b.WriteByte(']')
		var last string
		for round, want := range []struct{ accepted, duplicates int }{{n / 2, 0}, {0, n / 2}} {
			got := w.json("POST", "/v1/events", b.String(), "Content-Type", eventsType)
			var r usher.IngestResult
			if err := json.Unmarshal(got.Body.Bytes(), &r); err != nil || got.Code != 200 {
				t.Fatalf("got %d, %v", got.Code, err)
			}
			if r.Accepted != want.accepted || r.Duplicates != want.duplicates || len(r.Rejected) != n/2 {
				t.Fatalf("round %d: %d accepted, %d duplicates, %d rejected; want %d, %d, %d", round, r.Accepted, r.Duplicates, len(r.Rejected),
					want.accepted, want.duplicates, n/2)
			}
			for i, x := range r.Rejected {
				if code := ways[i%len(ways)].code; x.Index != 2*i+1 || x.Code != code || x.Message == "" {
					t.Fatalf("round %d: rejection %d is %+v, want index %d with code %s", round, i, x, 2*i+1, code)
				}
			}
			last = got.Body.String()
		}
		if !strings.Contains(last, `{"index":9999,`) {
			t.Error("the last event is not named")
		}
		if got := w.json("POST", "/v1/check", `{"customer":"acme","feature":"copies"}`).Body.String(); !strings.Contains(got, `"used":5000,`) {
			t.Errorf("got %s, want 5000 used", got)
		}
	})
}

// TestSandboxClockNeverGoesBack: the sandbox's clock stands where it was.
func TestSandboxClockNeverGoesBack(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		sandbox := []string{"Authorization", "Bearer " + w.keys["sandbox"]}
		w.want(w.json("PUT", "/v1/clock", `{"now":"2026-05-01T00:00:00Z"}`, sandbox...), 200, `{"now":"2026-05-01T00:00:00Z","test":true}`+"\n")
		got := w.json("PUT", "/v1/clock", `{"now":"2026-04-30T23:59:59Z"}`, sandbox...)
		if got.Code != 409 || !strings.Contains(got.Body.String(), `"code":"conflict"`) ||
			!strings.Contains(got.Body.String(), "2026-05-01T00:00:00Z") {
			t.Errorf("an earlier time: got %d %s, want 409 conflict that says what time it is", got.Code, got.Body)
		}
		w.want(w.json("PUT", "/v1/clock", `{"now":"2026-05-01T00:00:00Z"}`, sandbox...), 200, `{"now":"2026-05-01T00:00:00Z","test":true}`+"\n")
		w.want(w.json("GET", "/v1/clock", "", sandbox...), 200, `{"now":"2026-05-01T00:00:00Z","test":true}`+"\n")
		if got := w.json("PUT", "/v1/clock", `{"now":"2026-05-01T00:00:00Z"}`); got.Code != 422 {
			t.Errorf("production: got %d %s, want 422", got.Code, got.Body)
		}
	})
}

// TestServerClockJumpsBack: the machine's clock jumps by minutes and by months
// between requests, also while they run. Nobody panics, no answer is a fault,
// and what is allowed in a month never comes to more than its limit.
func TestServerClockJumpsBack(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		var made atomic.Int64
		take := func(n int) {
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					i := made.Add(1)
					var got int
					switch i % 4 {
					case 0:
						got = w.json("POST", "/v1/reservations", fmt.Sprintf(`{"customer":"acme","feature":"calls","amount":3,"ttl":"60s","key":"k%d"}`,
							i)).Code
					case 1:
						got = w.json("PUT", fmt.Sprintf("/v1/customers/acme/seats/members/u%d", i%8), `{"ttl":"60s"}`).Code
					default:
						got = w.json("POST", "/v1/consume", fmt.Sprintf(`{"customer":"acme","feature":"calls","amount":2,"key":"k%d"}`, i)).Code
					}
					if got != 200 && got != 201 {
						t.Errorf("request %d: got %d", i, got)
					}
				})
			}
			wg.Wait()
		}
		jumps := []time.Duration{0, -time.Second, -time.Hour, 2 * time.Hour, -24 * time.Hour, 30 * 24 * time.Hour, -29 * 24 * time.Hour,
			-time.Minute, 30 * time.Second}
		for _, jump := range jumps {
			w.pass(jump)
			take(12)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range 20 {
				w.pass([]time.Duration{-10 * time.Minute, 10*time.Minute + time.Second, -time.Second}[i%3])
			}
		})
		wg.Go(func() { take(60) })
		wg.Wait()
		if strings.Contains(w.log.String(), "panic") {
			t.Errorf("the log says\n%s", w.log.String())
		}
		// Both months, as they stand.
		for _, month := range []string{"2026-02-15T00:00:00Z", "2026-03-15T00:00:00Z", "2026-04-05T00:00:00Z"} {
			for _, feature := range []string{"calls", "members"} {
				got := w.json("POST", "/v1/check", `{"customer":"acme","feature":"`+feature+`","at":"`+month+`"}`)
				var d usher.Decision
				if err := json.Unmarshal(got.Body.Bytes(), &d); err != nil || got.Code != 200 {
					t.Fatalf("got %d %s, %v", got.Code, got.Body, err)
				}
				if d.Used+d.Reserved > d.Limit || d.Excess != 0 || d.Remaining < 0 {
					t.Errorf("%s in %s is oversold: %s", feature, month, got.Body)
				}
			}
		}
		// What was answered by the books is what the ledger says.
		points := w.json("GET", "/v1/usage?customer=acme&feature=calls&from=2026-02-01T00:00:00Z&to=2026-05-01T00:00:00Z&window=month", "")
		var list struct {
			Data []struct{ Value int64 }
		}
		if err := json.Unmarshal(points.Body.Bytes(), &list); err != nil || len(list.Data) == 0 {
			t.Fatalf("got %s, %v", points.Body, err)
		}
		for _, p := range list.Data {
			if p.Value > 100 {
				t.Errorf("a month came to %d: %s", p.Value, points.Body)
			}
		}
	})
}

// TestExpiredHoldAfterTheClockJumpedBack: what an expired reservation gave back
// is not given back again when the clock stands before its end once more.
func TestExpiredHoldAfterTheClockJumpedBack(t *testing.T) {
	for _, end := range []string{"settle", "release"} {
		t.Run(end, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				reserve := func(amount, ttl, key string) string {
					t.Helper()
					got := w.json("POST", "/v1/reservations", `{"customer":"acme","feature":"calls","amount":`+amount+`,"ttl":"`+ttl+`","key":"`+key+`"}`)
					var d usher.Decision
					if err := json.Unmarshal(got.Body.Bytes(), &d); err != nil || got.Code != 201 {
						t.Fatalf("got %d %s, %v", got.Code, got.Body, err)
					}
					return d.Reservation.ID
				}
				first := reserve("50", "60s", "a")
				w.pass(61 * time.Second)
				reserve("100", "1h", "b") // all of it: the first is expired
				w.pass(-30 * time.Second)
				if got := w.json("POST", "/v1/reservations/"+first+"/"+end, ""); got.Code != 200 {
					t.Fatalf("got %d %s", got.Code, got.Body)
				}
				got := w.json("POST", "/v1/consume", `{"customer":"acme","feature":"calls","amount":1,"key":"c"}`)
				if got.Code != 200 || !strings.Contains(got.Body.String(), `"allowed":false`) ||
					!strings.Contains(got.Body.String(), `"reserved":100,`) {
					t.Errorf("a consume while all is held: got %d %s, want a denial with 100 reserved", got.Code, got.Body)
				}
			})
		})
	}
}

// TestS22_S23_InParallel: as many seats and reservations as there are, to the
// last one, however many ask at once.
func TestS22_S23_InParallel(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		var seated, held atomic.Int64
		var wg sync.WaitGroup
		var mu sync.Mutex
		var ids []string
		count := func(n *atomic.Int64, method, path, body string) {
			wg.Go(func() {
				got := w.json(method, path, body)
				switch {
				case got.Code >= 300:
					t.Errorf("%s %s: got %d %s", method, path, got.Code, got.Body)
				case strings.HasPrefix(got.Body.String(), `{"allowed":true,`):
					n.Add(1)
				}
				var d usher.Decision
				if err := json.Unmarshal(got.Body.Bytes(), &d); err == nil && d.Reservation != nil {
					mu.Lock()
					ids = append(ids, d.Reservation.ID)
					mu.Unlock()
				}
			})
		}
		for i := range 40 {
			count(&seated, "PUT", fmt.Sprintf("/v1/customers/acme/seats/members/u%d", i), "")
			count(&held, "POST", "/v1/reservations", fmt.Sprintf(`{"customer":"acme","feature":"calls","amount":3,"key":"k%d"}`, i))
		}
		wg.Wait()
		if seated.Load() != 2 || held.Load() != 33 {
			t.Errorf("%d seated and %d held, want 2 and 33", seated.Load(), held.Load())
		}
		w.want(w.json("POST", "/v1/check", `{"customer":"acme","feature":"calls","amount":1}`), 200,
			calls("true", "within_limit", "0", "99", "1", march+`"revision":3}`))
		// One end each, of two at once.
		ends := make([]int, 2*len(ids))
		for i, id := range ids {
			for j, end := range []string{"settle", "release"} {
				wg.Go(func() {
					ends[2*i+j] = w.json("POST", fmt.Sprintf("/v1/reservations/%s/%s", id, end), "").Code
				})
			}
		}
		wg.Wait()
		for i := range ids {
			if a, b := ends[2*i], ends[2*i+1]; min(a, b) != 200 || max(a, b) != 409 {
				t.Errorf("settle and release of one reservation: got %d and %d, want 200 and 409", a, b)
			}
		}
	})
}
