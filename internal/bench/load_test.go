package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// load is a number of clients that each keep one connection and send the next request
// as soon as they have an answer. They write prepared bytes, change only what must
// differ, and read little of the answer, so that they use little processor time.
type load struct {
	path, contentType, key string
	clients                int
	// body is a request's; next changes it in place before each request, at the
	// same length.
	body func(client int) []byte
	next func(body []byte, client int, r *rand.Rand)
}

// measured is what clients saw.
type measured struct {
	answers, allowed int64
	perSecond        float64
	p50, p99         time.Duration
}

// run asks addr for d.
func (l *load) run(b testing.TB, addr string, d time.Duration) measured {
	b.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var m measured
	var all []time.Duration
	began := time.Now()
	until := began.Add(d)
	for client := range l.clients {
		conn, err := net.Dial("tcp", addr)
		must(b, err)
		wg.Go(func() {
			defer conn.Close()
			took, allowed, err := l.one(conn, client, until)
			if err != nil {
				b.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			m.allowed += allowed
		})
	}
	wg.Wait()
	elapsed := time.Since(began)
	if b.Failed() || len(all) == 0 {
		b.Fatalf("%s: %d answers", l.path, len(all))
	}
	slices.Sort(all)
	m.answers = int64(len(all))
	m.perSecond = float64(len(all)) / elapsed.Seconds()
	m.p50, m.p99 = all[len(all)/2], all[len(all)*99/100]
	return m
}

func (l *load) one(conn net.Conn, client int, until time.Time) (took []time.Duration, allowed int64, err error) {
	body := l.body(client)
	raw := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: usher\r\nContent-Type: %s\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n",
		l.path, l.contentType, l.key, len(body))
	raw = append(raw, body...)
	body = raw[len(raw)-len(body):]
	in := bufio.NewReader(conn)
	r := newRand(client)
	took = make([]time.Duration, 0, 4096)
	for now := time.Now(); now.Before(until); {
		if l.next != nil {
			l.next(body, client, r)
		}
		if _, err := conn.Write(raw); err != nil {
			return took, allowed, err
		}
		yes, err := answer(in)
		if err != nil {
			return took, allowed, err
		}
		if yes {
			allowed++
		}
		then := now
		now = time.Now()
		took = append(took, now.Sub(then))
	}
	return took, allowed, nil
}

var allowedTrue = []byte(`{"allowed":true`)

// answer reads one 200 and reports whether it is a decision that allows.
func answer(in *bufio.Reader) (allowed bool, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return false, err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		rest, _ := in.Peek(in.Buffered())
		return false, fmt.Errorf("got %s%s", line, rest)
	}
	length := 0
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return false, err
		}
		if len(line) == 2 {
			break
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return false, err
			}
		}
	}
	if length < len(allowedTrue) {
		return false, errors.New("an answer is too short or has no length")
	}
	head, err := in.Peek(len(allowedTrue))
	if err != nil {
		return false, err
	}
	allowed = bytes.Equal(head, allowedTrue)
	_, err = in.Discard(length)
	return allowed, err
}

// newRand differs between clients and between runs, so no key comes twice.
func newRand(client int) *rand.Rand {
	return rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(client)))
}

const uuidLength = 36

// orderedUUID writes a UUIDv7: ids made later sort later.
func orderedUUID(to []byte, r *rand.Rand) {
	us := uint64(time.Now().UnixMicro())
	writeUUID(to, us/1000<<16|7<<12|us%1000<<2, r.Uint64()>>2|1<<63)
}

// randomUUID writes a UUIDv4.
func randomUUID(to []byte, r *rand.Rand) {
	writeUUID(to, r.Uint64()&^(0xf<<12)|4<<12, r.Uint64()>>2|1<<63)
}

func writeUUID(to []byte, high, low uint64) {
	const hex = "0123456789abcdef"
	for i := range uuidLength {
		switch i {
		case 8, 13, 18, 23:
			to[i] = '-'
			continue
		}
		from := &high
		if i > 18 {
			from = &low
		}
		to[i] = hex[*from>>60]
		*from <<= 4
	}
}

// check asks whether a customer may make 10 calls; pick chooses which one.
func check(key string, clients int, pick func(r *rand.Rand) int) *load {
	const before = `{"customer":"`
	return &load{path: "/v1/check", contentType: "application/json", key: key, clients: clients,
		body: func(int) []byte { return []byte(before + customer(0) + `","feature":"calls","amount":10}`) },
		next: func(body []byte, _ int, r *rand.Rand) { putCustomer(body[len(before):], pick(r)) }}
}

// putCustomer writes customer's name without allocating.
func putCustomer(to []byte, n int) {
	for i := 7; i > 0; i-- {
		to[i] = byte('0' + n%10)
		n /= 10
	}
}

// consume takes one unit under a new key, each client from its own customer or all
// from the first.
func consume(key string, clients int, hot bool, uuid func(to []byte, r *rand.Rand)) *load {
	const before = `{"key":"`
	return &load{path: "/v1/consume", contentType: "application/json", key: key, clients: clients,
		body: func(client int) []byte {
			if hot {
				client = 0
			}
			return fmt.Appendf(nil, `%s%036d","customer":"%s","feature":"calls"}`, before, 0, customer(client))
		},
		next: func(body []byte, _ int, r *rand.Rand) { uuid(body[len(before):], r) }}
}

// bareConsume is the handler that consume is compared with: it reads the same request
// and writes the same answer, without a key, a database or limits.
func bareConsume(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Key      string `json:"key"`
		Customer string `json:"customer"`
		Feature  string `json:"feature"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	type window struct {
		Start time.Time `json:"start"`
		End   time.Time `json:"end"`
	}
	type deduction struct {
		Allowance string `json:"allowance"`
		Amount    int64  `json:"amount"`
	}
	out := struct {
		Allowed    bool        `json:"allowed"`
		Reason     string      `json:"reason"`
		Customer   string      `json:"customer"`
		Feature    string      `json:"feature"`
		Kind       string      `json:"kind"`
		Limit      int64       `json:"limit"`
		Used       int64       `json:"used"`
		Reserved   int64       `json:"reserved"`
		Remaining  int64       `json:"remaining"`
		Unlimited  bool        `json:"unlimited"`
		Overage    int64       `json:"overage"`
		Window     window      `json:"window"`
		Plan       string      `json:"plan"`
		Consumed   int64       `json:"consumed"`
		Deductions []deduction `json:"deductions"`
		Revision   int64       `json:"revision"`
	}{true, "within_limit", in.Customer, in.Feature, "metered", 1_000_000_000_000, 1, 0, 999_999_999_999, false, 0,
		window{bareStart, bareStart.AddDate(0, 1, 0)}, "pro@1", 1, []deduction{{"plan:pro@1", 1}}, 3}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(&out)
}

var bareStart = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

func median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

// pairs runs x and y in turns, in alternating order, and returns the
// medians of x, of y, and of x/y.
func pairs(n int, x, y func() float64) (mx, my, ratio float64) {
	var xs, ys, ratios []float64
	for i := range n {
		var a, b float64
		if i%2 == 0 {
			a = x()
			b = y()
		} else {
			b = y()
			a = x()
		}
		xs, ys, ratios = append(xs, a), append(ys, b), append(ratios, a/b)
	}
	return median(xs), median(ys), median(ratios)
}
