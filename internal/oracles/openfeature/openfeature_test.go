// Package openfeature proves that OpenFeature's own SDKs work with usher: each of them,
// unchanged, against the real server. It contains only tests.
package openfeature

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/usher-sh/usher/internal/oracles/real"
)

// server is a real server with a key for flags.
type server struct {
	*real.Server
	flagsKey string
}

func TestMain(m *testing.M) { real.Main(m) }

func serve(t *testing.T) *server {
	t.Helper()
	s := &server{Server: real.Serve(t)}
	var made struct {
		Key string `json:"key"`
	}
	if err := json.Unmarshal(s.Do(t, "POST", "/v1/keys", "application/json", `{"role":"ofrep","name":"flags"}`), &made); err != nil ||
		made.Key == "" {
		t.Fatalf("no key of role ofrep: %v", err)
	}
	s.flagsKey = made.Key
	return s
}

// TestJavaScript: the SDKs for servers and for browsers, with their providers.
func TestJavaScript(t *testing.T) {
	dir := real.Installed(t)
	real.Copy(t, dir, "world.mjs", "server.test.mjs", "web.test.mjs")
	s := serve(t)
	for _, script := range []string{"server.test.mjs", "web.test.mjs"} {
		t.Run(script, func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			node := exec.CommandContext(ctx, "node", "--test", "--test-reporter=spec", script)
			node.Dir = dir
			node.Env = append(os.Environ(), "USHER_URL="+s.URL, "USHER_KEY="+s.Key, "USHER_FLAGS_KEY="+s.flagsKey, "NO_PROXY=127.0.0.1")
			out, err := node.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			} else if !bytes.Contains(out, []byte("fail 0")) || bytes.Contains(out, []byte("tests 0")) {
				t.Errorf("nothing was proved:\n%s", out)
			}
		})
	}
}
