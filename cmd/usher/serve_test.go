package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/server"
)

// serveUntilReady starts `usher serve` on a database and stops it once it answers. It
// returns what it printed, on both outputs.
func serveUntilReady(t *testing.T, db string, flags ...string) string {
	t.Helper()
	port := filepath.Join(t.TempDir(), "port")
	c := exec.Command("usher", append([]string{"serve", "--db", db, "--listen", "127.0.0.1:0", "--port-file", port}, flags...)...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := await(port); err != nil {
		c.Process.Kill()
		c.Wait()
		t.Fatalf("%v\n%s", err, &out)
	}
	c.Process.Signal(syscall.SIGTERM)
	if err := c.Wait(); err != nil {
		t.Errorf("serve: %v\n%s", err, &out)
	}
	return out.String()
}

// TestServeKeepsKeysOutOfLogs: whose output is no terminal creates no keys and says
// how to create one, or writes them to a file, once, for its owner only.
func TestServeKeepsKeysOutOfLogs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db, file := filepath.Join(dir, "usher.db"), filepath.Join(dir, "keys.json")
	out := serveUntilReady(t, db)
	if strings.Contains(out, "usk_") || !strings.Contains(out, "usher key create --db "+db) || !strings.Contains(out, "--admin-key-file") {
		t.Errorf("got %s, want no key and how to create one", out)
	}
	if out := serveUntilReady(t, db, "--admin-key-file", file); strings.Contains(out, "usk_") {
		t.Errorf("a key is in the output: %s", out)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("got %v, %v, want mode 0600", info, err)
	}
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string]string
	if err := json.Unmarshal(first, &keys); err != nil || len(keys) != 2 || !strings.HasPrefix(keys["production"], "usk_production_") {
		t.Errorf("got %s, %v, want what init --json prints", first, err)
	}
	if out := serveUntilReady(t, db, "--admin-key-file", file); strings.Contains(out, "no API keys") {
		t.Errorf("with keys: %s", out)
	}
	if again, err := os.ReadFile(file); err != nil || !bytes.Equal(again, first) {
		t.Errorf("the file was written again: %s, %v", again, err)
	}
	_, errs, code := runUsher(t, nil, "serve", "--db", filepath.Join(dir, "other.db"), "--listen", "127.0.0.1:0", "--admin-key-file", file)
	if code != exitUsage || !strings.Contains(errs, "--admin-key-file") {
		t.Errorf("over an existing file: got %d %s", code, errs)
	}
}

func TestServePrintsKeysToATerminal(t *testing.T) {
	t.Parallel()
	s, err := server.Open(t.Context(), server.Config{DB: filepath.Join(t.TempDir(), "usher.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var out strings.Builder
	a := &app{Context: t.Context(), out: &out, err: io.Discard, cli: &cli{}, tty: terminals{out: true}}
	for range 2 {
		if err := (&serveCmd{}).greet(a, s.Auth, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(out.String(), "usk_"); n != 2 {
		t.Errorf("got %d keys, want 2, printed once:\n%s", n, out.String())
	}
	if keys, err := s.Auth.Keys(t.Context(), "production"); err != nil || len(keys) != 1 || keys[0].Role != auth.RoleAdmin {
		t.Errorf("got %+v, %v", keys, err)
	}
}

// TestServeTLS: the server speaks TLS with the files, and with new ones without a
// restart; an address that other machines reach without TLS is warned of.
func TestServeTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	newCertificate(t, "one", cert, key)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	listener, err := listenTLS(l, cert, key, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.Open(t.Context(), server.Config{DB: filepath.Join(dir, "usher.db")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- serve(ctx, s, listener, "", func(address string) error { ready <- address; return nil })
	}()
	address := <-ready
	name := func() string {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
		defer client.CloseIdleConnections()
		res, err := client.Get("https://" + address + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK || res.ProtoMajor != 2 {
			t.Errorf("got %s over %s", res.Status, res.Proto)
		}
		return res.TLS.PeerCertificates[0].Subject.CommonName
	}
	if got := name(); got != "one" {
		t.Errorf("got the certificate %q", got)
	}
	newCertificate(t, "two", cert, key)
	later := time.Now().Add(time.Hour) // for file systems with coarse times
	if err := os.Chtimes(cert, later, later); err != nil {
		t.Fatal(err)
	}
	if got := name(); got != "two" {
		t.Errorf("after the renewal: got the certificate %q", got)
	}
	if err := os.WriteFile(cert, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := name(); got != "two" {
		t.Errorf("with a broken file: got the certificate %q", got)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !strings.Contains(said.String(), "cannot be read again") {
		t.Errorf("the log says %q", said.String())
	}

	_, errs, code := runUsher(t, nil, "serve", "--db", filepath.Join(dir, "x.db"), "--listen", "127.0.0.1:0", "--tls-cert", cert)
	if code != exitUsage || !strings.Contains(errs, "given together") {
		t.Errorf("half the flags: got %d %s", code, errs)
	}
	for address, want := range map[string]bool{"127.0.0.1:0": false, "0.0.0.0:0": true} {
		out := serveUntilReady(t, filepath.Join(dir, "y.db"), "--listen", address)
		if got := strings.Contains(out, "plain text"); got != want {
			t.Errorf("on %s: got a warning: %v, want %v: %s", address, got, want, out)
		}
	}
}

// newCertificate writes a certificate that signs itself.
func newCertificate(t *testing.T, name, certFile, keyFile string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, of, of, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestServeLogsJSON: with --log-format json each line of the log is a JSON object, and
// with --log-requests each request has one.
func TestServeLogsJSON(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	port := filepath.Join(dir, "port")
	c := exec.Command("usher", "serve", "--db", filepath.Join(dir, "usher.db"), "--listen", "127.0.0.1:0", "--port-file", port,
		"--log-format", "json", "--log-requests")
	var log bytes.Buffer
	c.Stderr = &log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	url, err := await(port)
	if err == nil {
		var res *http.Response
		if res, err = http.Get(url + "/healthz"); err == nil {
			res.Body.Close()
		}
	}
	c.Process.Signal(syscall.SIGTERM)
	if waited := c.Wait(); err != nil || waited != nil {
		t.Fatalf("%v, %v\n%s", err, waited, &log)
	}
	requests := 0
	for line := range strings.Lines(log.String()) {
		var record struct{ Level, Msg, Route string }
		if err := json.Unmarshal([]byte(line), &record); err != nil || record.Level == "" {
			t.Errorf("not a JSON record: %q, %v", line, err)
		}
		if record.Level == "INFO" && record.Msg == "request" && record.Route == "GET /healthz" {
			requests++
		}
	}
	if requests == 0 {
		t.Errorf("no request is in the log:\n%s", &log)
	}
}
