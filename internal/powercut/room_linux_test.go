package powercut

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
)

// server is the real binary on a disk that fills up.
type server struct {
	url, key string
	process  *exec.Cmd
}

func (s *server) start(t *testing.T, binary, db, port string) {
	t.Helper()
	_ = os.Remove(port)
	s.process = exec.Command(binary, "serve", "--db", db, "--listen", "127.0.0.1:0", "--port-file", port, "--log-level", "error")
	s.process.Stderr = io.Discard // it says of each batch that it could not be stored
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	c := s.process
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(port)
		if err != nil {
			continue
		}
		s.url = "http://" + strings.TrimSpace(string(b))
		if res, err := http.Get(s.url + "/readyz"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
	}
	t.Fatal("the server never became ready")
}

// post returns the status, the header and the body of an answer; a request
// without an answer has status 0.
func (s *server) post(path string, body any) (int, http.Header, []byte) {
	b, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	req, err := http.NewRequest("POST", s.url+path, bytes.NewReader(b))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	req.Header.Set("Content-Type", "application/json")
	if path == "/v1/events" {
		req.Header.Set("Content-Type", "application/cloudevents-batch+json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, []byte(err.Error())
	}
	defer res.Body.Close()
	b, err = io.ReadAll(res.Body)
	if err != nil {
		return 0, nil, []byte(err.Error())
	}
	return res.StatusCode, res.Header, b
}

type answer struct {
	Allowed  bool
	Used     int64
	Consumed int64
	Replayed bool
}

// ledger is what the outside world knows of the takes on the small disk.
type ledger struct {
	mu      sync.Mutex
	takes   map[string]answer // answered
	unknown map[string]bool   // refused so far
	refused int
	wrong   []string
}

func (l *ledger) broken(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// take asks for one unit; ok is false where it was told to come back.
func (l *ledger) take(s *server, key string) (ok bool) {
	status, header, body := s.post("/v1/consume", map[string]string{"customer": "acme", "feature": "calls", "key": key})
	var a answer
	switch {
	case status == http.StatusOK && json.Unmarshal(body, &a) == nil && a.Allowed:
	case status == http.StatusServiceUnavailable:
		l.refusal(header, body)
		l.mu.Lock()
		if _, known := l.takes[key]; !known {
			l.unknown[key] = true
		}
		l.mu.Unlock()
		return false
	default:
		l.broken("key %s: %d %s", key, status, body)
		return false
	}
	l.mu.Lock()
	first, known := l.takes[key]
	if !known {
		l.takes[key] = a
		delete(l.unknown, key)
	}
	l.mu.Unlock()
	if known && (!a.Replayed || a.Used != first.Used || a.Consumed != first.Consumed) {
		l.broken("key %s: %+v first and %+v now", key, first, a)
	}
	return true
}

// refusal must be a problem document that says when to come back.
func (l *ledger) refusal(header http.Header, body []byte) {
	var problem struct {
		Status int
		Code   string
		Detail string
	}
	after, err := strconv.Atoi(header.Get("Retry-After"))
	if ct := header.Get("Content-Type"); !strings.HasPrefix(ct, "application/problem+json") || err != nil || after < 1 ||
		json.Unmarshal(body, &problem) != nil || problem.Status != http.StatusServiceUnavailable || problem.Code != "unavailable" {
		l.broken("a refusal with Content-Type %q, Retry-After %q: %s", ct, header.Get("Retry-After"), body)
	}
	l.mu.Lock()
	l.refused++
	l.mu.Unlock()
}

// again asks for all keys once more, at most `most` of those that were answered.
func (l *ledger) again(s *server, most int) {
	l.mu.Lock()
	var keys []string
	for k := range l.takes {
		if len(keys) < most {
			keys = append(keys, k)
		}
	}
	for k := range l.unknown {
		keys = append(keys, k)
	}
	l.mu.Unlock()
	todo := make(chan string)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for k := range todo {
				if !l.take(s, k) {
					l.broken("key %s: refused though there is room", k)
				}
			}
		})
	}
	for _, k := range keys {
		todo <- k
	}
	close(todo)
	wg.Wait()
}

// The disk of the real server fills up: takes are refused and say when to come
// back, checks go on, and with room again it works on; nothing is lost.
func TestDiskFull(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	rounds := sized(2, 6)
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%dm", 16+6*rounds)); err != nil {
		t.Skipf("SKIPPED: mounting a small disk needs root on Linux: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	began := time.Now()
	dir := t.TempDir()
	binary := filepath.Join(dir, "usher")
	build := exec.Command("go", "build", "-o", binary, "./cmd/usher")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	db, port := filepath.Join(disk, "usher.db"), filepath.Join(dir, "port")
	run := func(env []string, args ...string) []byte {
		t.Helper()
		c := exec.Command(binary, args...)
		c.Env = append(os.Environ(), env...)
		out, err := c.Output()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("usher %q: %v: %s", args, err, exit.Stderr)
		} else if err != nil {
			t.Fatal(err)
		}
		return out
	}
	var keys map[string]string
	if err := json.Unmarshal(run(nil, "init", "--json", "--db", db), &keys); err != nil {
		t.Fatal(err)
	}
	s := &server{key: keys["sandbox"]}
	s.start(t, binary, db, port)
	file := filepath.Join(dir, "catalog.yaml")
	text := "usher: 1\nfeatures: {calls: {kind: metered}}\nplans: {all: {default: true, entitlements: {calls: {limit: 1000000, per: " +
		"lifetime}}}}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"USHER_URL=" + s.url, "USHER_KEY=" + s.key}
	run(env, "apply", "--yes", file)
	run(env, "customer", "put", "acme")

	// Each piece is more than what SQLite's log holds and has to move first.
	ballast := func(i int) string { return filepath.Join(disk, fmt.Sprint("ballast-", i)) }
	for i := range rounds {
		if err := os.WriteFile(ballast(i), make([]byte, 6<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := &ledger{takes: map[string]answer{}, unknown: map[string]bool{}}
	check := func() (used int64) {
		status, _, body := s.post("/v1/check", map[string]string{"customer": "acme", "feature": "calls"})
		var a answer
		if status != http.StatusOK || json.Unmarshal(body, &a) != nil || !a.Allowed {
			t.Fatalf("check: %d %s", status, body)
		}
		return a.Used
	}
	filler := json.RawMessage(`{"x":"` + strings.Repeat("x", 4000) + `"}`)
	for round := range rounds {
		// Workers take until they are refused; events fill the disk meanwhile.
		full := make(chan struct{})
		var once sync.Once
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i, refused := 0, 0; refused < 20; i++ {
					if !l.take(s, fmt.Sprintf("%d-%d-%d", round, w, i)) {
						once.Do(func() { close(full) })
						refused++
					} else if i > 200_000 {
						l.broken("the disk never filled up")
						once.Do(func() { close(full) })
						return
					}
				}
			})
		}
		for i := 0; ; i++ {
			events := make([]map[string]any, 50)
			for k := range events {
				events[k] = map[string]any{"specversion": "1.0", "id": fmt.Sprintf("%d-%d-%d", round, i, k), "source": "test", "type": "filler",
					"subject": "acme", "data": filler}
			}
			status, header, body := s.post("/v1/events", events)
			if status == http.StatusServiceUnavailable {
				l.refusal(header, body)
			} else if status/100 != 2 {
				t.Fatalf("events: %d %s", status, body)
			}
			select {
			case <-full:
			default:
				continue
			}
			break
		}
		wg.Wait()
		check()
		if status, _, _ := s.post("/v1/check", map[string]string{"customer": "nobody-yet", "feature": "calls"}); status != http.StatusOK {
			t.Errorf("a customer that is not in memory: check says %d", status)
		}
		if err := os.Remove(ballast(round)); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); !l.take(s, fmt.Sprint("room-", round)); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the disk has room again, and takes are still refused")
			}
		}
		l.again(s, 500)
		if used := check(); used != int64(len(l.takes)) || len(l.unknown) > 0 {
			t.Errorf("round %d: used %d, %d takes are known and %d are not", round, used, len(l.takes), len(l.unknown))
		}
	}
	// A server that is killed and started again knows all of them.
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	s.start(t, binary, db, port)
	l.again(s, 1<<30)
	if used := check(); used != int64(len(l.takes)) {
		t.Errorf("used %d after a restart, %d takes were acknowledged", used, len(l.takes))
	}
	for i, m := range l.wrong {
		if i == 5 {
			t.Errorf("and %d more", len(l.wrong)-i)
			break
		}
		t.Error(m)
	}
	t.Logf("the disk was full %d times: %d takes, %d answers \"unavailable\", none lost; %.1f s", rounds, len(l.takes), l.refused,
		time.Since(began).Seconds())
}
