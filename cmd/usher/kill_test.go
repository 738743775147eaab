package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// process is a server of its own.
type process struct {
	*exec.Cmd
	url string
}

func startServer(t *testing.T, dir, portFile string) process {
	t.Helper()
	port := filepath.Join(dir, portFile)
	c := exec.Command("usher", "serve", "--db", filepath.Join(dir, "usher.db"), "--listen", "127.0.0.1:0", "--port-file", port)
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	url, err := await(port)
	if err != nil {
		t.Fatal(err)
	}
	return process{c, url}
}

type taken struct {
	Allowed  bool
	Consumed int64
	Used     int64
	Replayed bool
}

// take consumes one unit under a key; false where the server gave no answer.
func take(client *http.Client, url, apiKey, key string) (d taken, ok bool) {
	body := fmt.Sprintf(`{"customer":"acme","feature":"calls","key":%q}`, key)
	req, err := http.NewRequest("POST", url+"/v1/consume", bytes.NewReader([]byte(body)))
	if err != nil {
		return d, false
	}
	req.Header.Set("Authorization", "Bearer "+apiKey)
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return d, false
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return d, err == nil && res.StatusCode == http.StatusOK && json.Unmarshal(b, &d) == nil
}

// TestKill: a server that is killed, or told to stop, while it works has
// forgotten nothing that it acknowledged, and counts nothing twice.
func TestKill(t *testing.T) {
	t.Parallel()
	t.Run("killed", func(t *testing.T) { t.Parallel(); testKill(t, os.Kill) })
	t.Run("stopped", func(t *testing.T) { t.Parallel(); testKill(t, syscall.SIGTERM) })
}

func testKill(t *testing.T, signal os.Signal) {
	dir := t.TempDir()
	out, errs, code := runUsher(t, nil, "init", "--json", "--db", filepath.Join(dir, "usher.db"))
	var keys map[string]string
	if err := json.Unmarshal([]byte(out), &keys); err != nil || code != exitDone {
		t.Fatalf("init: exit code %d: %v %s", code, err, errs)
	}
	key := keys["sandbox"]
	catalog := filepath.Join(dir, "catalog.yaml")
	text := "usher: 1\nfeatures: {calls: {kind: metered}}\n" +
		"plans: {all: {default: true, entitlements: {calls: {limit: 1000000, per: lifetime}}}}\n"
	if err := os.WriteFile(catalog, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startServer(t, dir, "port1")
	env := []string{"USHER_URL=" + p.url, "USHER_KEY=" + key}
	for _, args := range [][]string{{"apply", "--yes", catalog}, {"customer", "put", "acme"}} {
		if _, errs, code := runUsher(t, env, args...); code != exitDone {
			t.Fatalf("usher %q: exit code %d: %s", args, code, errs)
		}
	}

	const workers, enough = 8, 2000
	var (
		mu       sync.Mutex
		answered = map[string]taken{}
		unknown  = map[string]bool{}
		total    atomic.Int64
		reached  = make(chan struct{})
		wg       sync.WaitGroup
	)
	for w := range workers {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			for i := 0; ; i++ {
				k := fmt.Sprintf("%d-%d", w, i)
				d, ok := take(client, p.url, key, k)
				mu.Lock()
				if ok {
					answered[k] = d
				} else {
					unknown[k] = true
				}
				mu.Unlock()
				if !ok {
					return
				}
				if total.Add(1) == enough {
					close(reached)
				}
			}
		})
	}
	stopped := make(chan struct{})
	go func() { wg.Wait(); close(stopped) }()
	select {
	case <-reached:
	case <-stopped:
		t.Fatalf("every worker failed after %d answers", total.Load())
	}
	p.Process.Signal(signal) // while all workers go on
	if err := p.Wait(); err != nil && signal != os.Kill {
		t.Errorf("the server did not stop cleanly: %v", err)
	}
	wg.Wait()

	p = startServer(t, dir, "port2")
	for k, before := range answered {
		d, ok := take(http.DefaultClient, p.url, key, k)
		switch {
		case !ok:
			t.Fatalf("key %s: no answer after the restart", k)
		case !d.Replayed:
			t.Fatalf("key %s was acknowledged and is forgotten: %+v", k, d)
		case d.Allowed != before.Allowed || d.Consumed != before.Consumed || d.Used != before.Used:
			t.Errorf("key %s: answered %+v before and %+v now", k, before, d)
		}
	}
	// What was under way may have been committed; its key says so.
	used := int64(len(answered))
	for k := range unknown {
		d, ok := take(http.DefaultClient, p.url, key, k)
		if !ok || !d.Allowed {
			t.Fatalf("key %s: %+v, answered: %v", k, d, ok)
		}
		used++ // once, whether then or now
	}
	last, ok := take(http.DefaultClient, p.url, key, "last")
	if !ok || last.Used != used+1 || last.Replayed {
		t.Errorf("used %d after one more, want %d: %d acknowledged, %d under way", last.Used, used+1, len(answered), len(unknown))
	}
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("the server did not stop cleanly: %v", err)
	}
	t.Logf("%d acknowledged, %d under way", len(answered), len(unknown))
}
