package api

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
)

// slowly opens a connection that announces a body of a megabyte and sends a part of it.
func slowly(t *testing.T, address, path, key string, part int) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if key != "" {
		key = "Authorization: Bearer " + key + "\r\n"
	}
	kind := "application/json"
	if path == "/v1/events" {
		kind = eventType
	}
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: usher\r\n%sContent-Type: %s\r\nContent-Length: 1000000\r\n\r\n%s", path, key, kind,
		strings.Repeat(" ", part))
	return c
}

// answered reads the answer of a connection.
func answered(t *testing.T, c net.Conn) *http.Response {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(time.Minute))
	got, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { got.Body.Close() })
	return got
}

// TestSlowBodies: a body takes the memory that has arrived of it, whatever length it
// announced; all of them together are bounded, and beyond that the answer is 503. A
// caller without a key is refused before its body is read.
func TestSlowBodies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const most, many, arrived = 1 << 20, 60, 6_000
	w.again(func(s *setup) { s.Door.BodyBytes = most })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := door.NewServer(l.Addr().String(), w.api.Door) // the law of the document would read bodies itself
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	address, key := l.Addr().String(), w.keys[auth.RoleAdmin]
	// holds waits until the server holds n bytes; it tells how many it holds at last.
	holds := func(n int64) int64 {
		for until := time.Now().Add(15 * time.Second); w.api.HeldBytes() != n && time.Now().Before(until); {
			time.Sleep(time.Millisecond)
		}
		return w.api.HeldBytes()
	}

	for _, path := range []string{"/v1/check", "/v1/events", "/access/v1/evaluation", "/v1/catalog"} {
		if got := answered(t, slowly(t, address, path, "", arrived)); got.StatusCode != 401 && got.StatusCode != 405 {
			t.Errorf("%s without a key: got %d, want 401", path, got.StatusCode)
		}
	}
	if got := answered(t, slowly(t, address, "/v1/session", "", arrived)); got.StatusCode != 413 {
		t.Errorf("a login with a megabyte: got %d, want 413", got.StatusCode)
	}
	if got := holds(0); got != 0 {
		t.Errorf("strangers hold %d bytes, want 0", got)
	}

	var slow []net.Conn
	for range many {
		slow = append(slow, slowly(t, address, "/v1/events", key, arrived))
	}
	// 6,000 bytes take 8 KiB, of which 4 KiB count.
	if got := holds(many * 4096); got != many*4096 {
		t.Fatalf("%d bodies of which %d bytes arrived hold %d bytes, want %d", many, arrived, got, many*4096)
	}
	for i := range 3 { // each takes 256 KiB, so that three fit
		slow = append(slow, slowly(t, address, "/v1/events", key, 200_000))
		if got, want := holds(many*4096+int64(i+1)*(256-4)<<10), many*4096+int64(i+1)*(256-4)<<10; got != want {
			t.Fatalf("%d larger bodies: %d bytes are held, want %d", i+1, got, want)
		}
	}
	for range 5 {
		got := answered(t, slowly(t, address, "/v1/events", key, 200_000))
		body, _ := io.ReadAll(got.Body)
		if got.StatusCode != 503 || got.Header.Get("Retry-After") == "" || !strings.Contains(string(body), `"code":"unavailable"`) {
			t.Errorf("beyond the bound: got %d %s, Retry-After %q, want 503", got.StatusCode, body, got.Header.Get("Retry-After"))
		}
	}
	if held := w.api.HeldBytes(); held > most {
		t.Errorf("%d bytes are held, want at most %d", held, most)
	}
	if got := w.do("POST", "/v1/check", "application/json", `{"customer":"acme","feature":"sso"}`); got.Code != 200 {
		t.Errorf("a check while large bodies wait: got %d %s", got.Code, got.Body)
	}
	for _, c := range slow {
		c.Close()
	}
	if got := holds(0); got != 0 {
		t.Errorf("%d bytes are held after all calls have ended", got)
	}
}
