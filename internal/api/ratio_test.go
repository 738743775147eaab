package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
)

// BenchmarkB2_CheckRatio measures POST /v1/check against a bare handler that
// decodes the same request and encodes the same answer with encoding/json, on
// the same kind of server. They take turns; the ratio is the median of the
// pairs. From 1 on the check costs no more than that.
func BenchmarkB2_CheckRatio(b *testing.B) {
	w := newWorld(b)
	const body = `{"customer":"acme","feature":"api_calls","amount":10}`
	ours := listen(b, w.api)
	bare := listen(b, http.HandlerFunc(bareCheck))
	// The same bytes go to both; the bare handler ignores the key.
	raw := fmt.Appendf(nil, "POST /v1/check HTTP/1.1\r\nHost: usher\r\nContent-Type: application/json\r\nAuthorization: Bearer "+
		"%s\r\nContent-Length: %d\r\n\r\n%s",
		w.keys[auth.RoleApp], len(body), body)
	for _, addr := range []string{ours, bare} { // both warm, and both right
		if rate(b, addr, raw, 200*time.Millisecond) == 0 {
			b.Fatal("no answers")
		}
	}
	const pairs = 7
	var ratios, us, them []float64
	for b.Loop() {
		for i := range pairs {
			var x, y float64
			if i%2 == 0 {
				x, y = rate(b, ours, raw, 500*time.Millisecond), rate(b, bare, raw, 500*time.Millisecond)
			} else {
				y, x = rate(b, bare, raw, 500*time.Millisecond), rate(b, ours, raw, 500*time.Millisecond)
			}
			ratios, us, them = append(ratios, x/y), append(us, x), append(them, y)
		}
	}
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(median(us), "checks/s")
	b.ReportMetric(median(them), "bare/s")
	b.ReportMetric(0, "ns/op")
}

// bareCheck is what the check is measured against: no key, no world, no limits.
func bareCheck(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Customer string `json:"customer"`
		Feature  string `json:"feature"`
		Amount   int64  `json:"amount"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	type window struct {
		Start time.Time `json:"start"`
		End   time.Time `json:"end"`
	}
	out := struct {
		Allowed   bool   `json:"allowed"`
		Reason    string `json:"reason"`
		Customer  string `json:"customer"`
		Feature   string `json:"feature"`
		Kind      string `json:"kind"`
		Limit     int64  `json:"limit"`
		Used      int64  `json:"used"`
		Reserved  int64  `json:"reserved"`
		Remaining int64  `json:"remaining"`
		Unlimited bool   `json:"unlimited"`
		Overage   int64  `json:"overage"`
		Window    window `json:"window"`
		Plan      string `json:"plan"`
		Revision  int64  `json:"revision"`
	}{true, "within_limit", in.Customer, in.Feature, "metered", 100, 0, 0, 100, false, 0,
		window{start.AddDate(0, 0, -9), start.AddDate(0, 0, 21)}, "pro@1", 3}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(&out)
}

func listen(b *testing.B, h http.Handler) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := door.NewServer("", h)
	go s.Serve(l)
	b.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

// rate is requests answered per second over several connections that are kept.
// The client writes one ready text and looks at little of the answer, so that
// it takes little of what is measured.
func rate(b *testing.B, addr string, raw []byte, d time.Duration) float64 {
	b.Helper()
	const conns = 8
	var done atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	until := began.Add(d)
	for range conns {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			defer conn.Close()
			in := bufio.NewReader(conn)
			n := int64(0)
			for ; n%64 != 0 || time.Now().Before(until); n++ {
				if _, err := conn.Write(raw); err != nil {
					b.Error(err)
					break
				}
				if err := answer(in); err != nil {
					b.Error(err)
					break
				}
			}
			done.Add(n)
		})
	}
	wg.Wait()
	return float64(done.Load()) / time.Since(began).Seconds()
}

// answer reads one 200 and throws its body away.
func answer(in *bufio.Reader) error {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("got %q", line)
	}
	length := 0
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			break
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return err
			}
		}
	}
	if length == 0 {
		return io.ErrUnexpectedEOF
	}
	_, err = in.Discard(length)
	return err
}

func median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

// TestCheckAllocatesLittle keeps the check's own part small: what is counted
// here is all that the handler adds to net/http's own work.
func TestCheckAllocatesLittle(t *testing.T) {
	w := newWorld(t)
	r, err := http.NewRequest("POST", "/v1/check", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+w.keys[auth.RoleApp])
	r.Header.Set("Content-Type", "application/json")
	body := []byte(`{"customer":"acme","feature":"api_calls","amount":10}`)
	in := bytes.NewReader(body)
	r.Body, r.ContentLength = io.NopCloser(in), int64(len(body))
	out := discard{http.Header{}}
	if n := testing.AllocsPerRun(200, func() {
		in.Reset(body)
		w.api.Door.ServeHTTP(out, r)
	}); n > 12 {
		t.Errorf("got %v allocations, want at most 12", n)
	}
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) WriteHeader(int)             {}
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
