package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ask sends a request and returns the status and the body.
func ask(t *testing.T, key, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// until asks again until the answer has a status; it fails after a long while.
func until(t *testing.T, want int, ask func() (int, string)) string {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		status, body := ask()
		if status == want {
			return body
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %d %s, want %d", status, body, want)
		}
	}
}

const callsCatalog = `{"usher":1,"features":{"calls":{"kind":"metered"}},
	"plans":{"free":{"default":true,"entitlements":{"calls":{"limit":1000,"per":"month"}}}}}`

// TestFileMovedUnderAServer: a server whose file is moved away takes nothing more and
// says why, answers checks from memory, and goes on when the file is back.
func TestFileMovedUnderAServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, away := filepath.Join(dir, "usher.db"), filepath.Join(dir, "away.db")
	out, errs, code := runUsher(t, nil, "init", "--json", "--db", file)
	var keys map[string]string
	if err := json.Unmarshal([]byte(out), &keys); err != nil || code != exitDone {
		t.Fatalf("init: %d %v %s", code, err, errs)
	}
	key, url := keys["production"], startServer(t, dir, "port").url
	if status, body := ask(t, key, "PUT", url+"/v1/catalog", callsCatalog); status != http.StatusOK {
		t.Fatalf("catalogue: %d %s", status, body)
	}
	if status, body := ask(t, key, "PUT", url+"/v1/customers/acme", `{"name":"Acme"}`); status/100 != 2 {
		t.Fatalf("customer: %d %s", status, body)
	}
	calls, taken := 0, 0
	take := func() (int, string) {
		calls++
		status, body := ask(t, key, "POST", url+"/v1/consume", fmt.Sprintf(`{"customer":"acme","feature":"calls","key":"%d"}`, calls))
		if status == http.StatusOK {
			taken++
		}
		return status, body
	}
	until(t, http.StatusOK, take)
	if err := os.Rename(file, away); err != nil {
		t.Fatal(err)
	}
	ready := func() (int, string) { return ask(t, key, "GET", url+"/readyz?takes", "") }
	for what, body := range map[string]string{"take": until(t, http.StatusServiceUnavailable, take),
		"readyz": until(t, http.StatusServiceUnavailable, ready)} {
		if !strings.Contains(body, "moved, replaced or deleted") || strings.Contains(body, dir) {
			t.Errorf("%s says %s, want why, and no path", what, body)
		}
	}
	status, body := ask(t, key, "POST", url+"/v1/check", `{"customer":"acme","feature":"calls"}`)
	if status != http.StatusOK || !strings.Contains(body, `"degraded":true`) || !strings.Contains(body, `"allowed":true`) {
		t.Errorf("a check: got %d %s, want yes, from memory", status, body)
	}
	if err := os.Rename(away, file); err != nil {
		t.Fatal(err)
	}
	until(t, http.StatusOK, ready)
	if body := until(t, http.StatusOK, take); !strings.Contains(body, fmt.Sprintf(`"used":%d,`, taken)) {
		t.Errorf("after it is back: %s, want %d used, as was answered", body, taken)
	}
}
