package prove

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/usher-sh/usher/internal/testpg"
)

// temporary is where the binary goes; TestMain makes and removes it.
var temporary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "usher-prove-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	temporary = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// built is the real binary, built once.
var built = sync.OnceValues(func() (string, error) {
	name := filepath.Join(temporary, "usher")
	if out, err := exec.Command("go", "build", "-o", name, "github.com/usher-sh/usher/cmd/usher").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return name, nil
})

func binary(t *testing.T) string {
	t.Helper()
	name, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// size returns how much to do: a small number, or all with USHER_PROVE=full.
func size(small, full int) int {
	if os.Getenv("USHER_PROVE") == "full" {
		return full
	}
	return small
}

// seed is USHER_SEED, or a new one; it is logged, so that a run can be repeated.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := uint64(rand.Uint32())
	if text := os.Getenv("USHER_SEED"); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("USHER_SEED: %v", err)
		}
	}
	t.Logf("seed %d", n)
	return n
}

// postgres starts a cluster for this test, or skips the test.
func postgres(t *testing.T, settings ...string) *testpg.Server {
	t.Helper()
	s, err := testpg.Start(settings...)
	if errors.Is(err, testpg.ErrNoBinaries) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// create creates usher's schema and returns production's admin key.
func create(t *testing.T, dsn string) (key string) {
	t.Helper()
	out, err := exec.Command(binary(t), "init", "--json", "--db", dsn).Output()
	if err != nil {
		t.Fatalf("usher init: %v", err)
	}
	var keys map[string]string
	if err := json.Unmarshal(out, &keys); err != nil || keys["production"] == "" {
		t.Fatalf("usher init: got %s, %v, want a key of each environment", out, err)
	}
	return keys["production"]
}

// node is one process of `usher serve`.
type node struct {
	*exec.Cmd
	addr string
	log  *tail
}

// serve starts a node, possibly with more flags, and returns when it listens. The node
// is killed at the end of the test.
func serve(t *testing.T, dsn string, flags ...string) *node {
	t.Helper()
	args := append([]string{"serve", "--json", "--log-level", "warn", "--db", dsn, "--listen", "127.0.0.1:0"}, flags...)
	n := &node{Cmd: exec.Command(binary(t), args...), log: &tail{}}
	n.Stderr = n.log
	out, err := n.StdoutPipe()
	if err == nil {
		err = n.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.kill()
		if t.Failed() {
			t.Logf("the last that the node at %s said:\n%s", n.addr, n.log)
		}
	})
	var ready struct{ URL string }
	if err := json.NewDecoder(out).Decode(&ready); err != nil {
		n.Wait()
		t.Fatalf("usher serve did not start: %v\n%s", err, n.log)
	}
	n.addr = strings.TrimPrefix(ready.URL, "http://")
	return n
}

// kill ends the node with SIGKILL, and returns when it is gone.
func (n *node) kill() {
	n.Process.Kill()
	n.Wait()
}

// stop asks the node to end and to finish what it does.
func (n *node) stop(t *testing.T) {
	t.Helper()
	n.Process.Signal(syscall.SIGTERM)
	if err := n.Wait(); err != nil {
		t.Errorf("the node did not stop cleanly: %v\n%s", err, n.log)
	}
}

// tail keeps the last of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (l *tail) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	if extra := len(l.text) - 2048; extra > 0 {
		l.text = l.text[extra:]
	}
	return len(b), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(bytes.TrimSpace(l.text))
}

// manage makes one call that changes something, and fails the test if it does not succeed.
func manage(t *testing.T, addr, key, method, path, contentType, body string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", contentType)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if answer, _ := io.ReadAll(res.Body); res.StatusCode >= 300 {
		t.Fatalf("%s %s: %s: %s", method, path, res.Status, answer)
	}
}

// client is one caller with one connection at a time. It writes requests and reads
// answers by hand to save processor time, which it shares with the server.
type client struct {
	key  string // API key
	addr string // of the open connection
	conn net.Conn
	r    *bufio.Reader
	out  []byte
	body []byte
}

// patience is the timeout of one call. It is longer than the server's own.
const patience = 40 * time.Second

// post calls a node. The answer's body is valid until the next call. An error means
// that there was no whole answer; it is then unknown what the server did.
func (c *client) post(addr, path, body string) (a answer, err error) {
	if c.conn != nil && c.addr != addr {
		c.close()
	}
	if c.conn == nil {
		if c.conn, err = net.Dial("tcp", addr); err != nil {
			return a, err
		}
		c.addr = addr
		if c.r == nil {
			c.r = bufio.NewReaderSize(c.conn, 8192)
		} else {
			c.r.Reset(c.conn)
		}
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	c.conn.SetDeadline(time.Now().Add(patience))
	c.out = request(c.out[:0], addr, c.key, path, body)
	if _, err := c.conn.Write(c.out); err != nil {
		return a, err
	}
	return c.read()
}

// request appends one request as it goes over the wire.
func request(b []byte, addr, key, path, body string) []byte {
	b = append(append(append(b, "POST "...), path...), " HTTP/1.1\r\nHost: "...)
	b = append(append(append(b, addr...), "\r\nAuthorization: Bearer "...), key...)
	b = append(b, "\r\nContent-Type: application/json\r\nContent-Length: "...)
	b = append(strconv.AppendInt(b, int64(len(body)), 10), "\r\n\r\n"...)
	return append(b, body...)
}

// read reads one answer of a known length.
func (c *client) read() (a answer, err error) {
	length := -1
	for first := true; ; first = false {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return a, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if first {
			if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
				return a, fmt.Errorf("not an answer: %q", line)
			}
			if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
				return a, err
			}
			continue
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch string(name) {
		case "Content-Length":
			if length, err = strconv.Atoi(string(value)); err != nil {
				return a, err
			}
		case "Retry-After":
			a.retryAfter = string(value)
		}
	}
	if length < 0 {
		return a, errors.New("an answer of unknown length")
	}
	if cap(c.body) < length {
		c.body = make([]byte, length)
	}
	a.body = c.body[:length]
	_, err = io.ReadFull(c.r, a.body)
	return a, err
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// answer is one answer that a client received.
type answer struct {
	status     int
	retryAfter string
	body       []byte
}

// decision is the part of an answer that the proofs read.
type decision struct {
	Allowed  bool
	Reason   string
	Used     int64
	Limit    int64
	Revision int64
	Degraded bool
	AsOf     time.Time `json:"as_of"`
}

func (a answer) decision() (d decision, err error) {
	if a.status != http.StatusOK {
		return d, fmt.Errorf("%d: %s", a.status, a.body)
	}
	return d, json.Unmarshal(a.body, &d)
}

var (
	allowed  = []byte(`{"allowed":true,`)
	replayed = []byte(`,"replayed":true`)
	used     = []byte(`,"used":`)
)

func (a answer) allowed() bool  { return bytes.HasPrefix(a.body, allowed) }
func (a answer) replayed() bool { return bytes.Contains(a.body, replayed) }

// used returns the decision's own figure, which comes before those of its parts.
func (a answer) used() (n int64) {
	_, rest, _ := bytes.Cut(a.body, used)
	for _, digit := range rest {
		if digit < '0' || digit > '9' {
			break
		}
		n = n*10 + int64(digit-'0')
	}
	return n
}

// check asks a node one question and fails the test if there is no answer.
func check(t *testing.T, c *client, addr, customer, feature string) decision {
	t.Helper()
	a, err := c.post(addr, "/v1/check", fmt.Sprintf(`{"customer":%q,"feature":%q}`, customer, feature))
	if err != nil {
		t.Fatalf("check %s %s: %v", customer, feature, err)
	}
	d, err := a.decision()
	if err != nil {
		t.Fatalf("check %s %s: %v", customer, feature, err)
	}
	return d
}
