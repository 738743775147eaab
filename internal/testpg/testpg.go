// Package testpg starts a throw-away PostgreSQL for tests and never outlives
// the process that asked for it. It refuses TCP, and it refuses to pretend:
// without the server's programs it says ErrNoBinaries, so that a test can skip
// in the open.
package testpg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrNoBinaries means that this machine has no PostgreSQL server programs:
// initdb and postgres side by side, on PATH or in /usr/lib/postgresql/*/bin.
var ErrNoBinaries = errors.New("no PostgreSQL server programs (initdb, postgres) on PATH or in /usr/lib/postgresql/*/bin")

// startup bounds how long initdb and the first connection may take.
const startup = 2 * time.Minute

// Server is a running PostgreSQL of its own, empty at first, reachable only
// through a unix socket. Its methods may be called from many goroutines.
type Server struct {
	dir  string
	stop func()
	next atomic.Int64
}

// Start makes a fresh cluster in a temporary folder and serves it. Each setting
// is "name=value" of postgresql.conf, and wins over what Start sets: fsync=off
// and max_connections=200. The databases sort text as people do ("a" before
// "B"), never by bytes, so that a query that forgot COLLATE "C" shows.
//
// The server stops, and its folder goes, with Stop or with the end of this
// process, however that ends.
func Start(settings ...string) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	// Not os.TempDir: the path of a socket must stay below 104 bytes.
	dir, err := os.MkdirTemp("/tmp", "usher-pg-")
	if err != nil {
		return nil, err
	}
	s, err := start(bin, dir, settings)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return s, nil
}

// script runs the server as a child of the shell and ends it when standard
// input ends: when Stop closes the pipe, or when the process that holds its
// other end is gone. Its arguments are the programs' folder, the cluster's, and
// the server's own arguments. It must live through a closed output as well:
// nobody reads it once that process is gone. PostgreSQL before 15 cannot sort
// with ICU by default, and then sorts by bytes.
const script = `
bin=$1 dir=$2; shift 2
cd "$dir" || exit 1
trap '' PIPE
trap 'cd / && rm -rf "$dir"' EXIT
init() { "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C --no-sync "$@"; }
init --locale-provider=icu --icu-locale=en-US || init || exit 1
exec 3<&0
"$bin/postgres" -D "$dir/data" "$@" 3<&- </dev/null & server=$!
{ read -r _ <&3; kill -QUIT $server; } & watch=$!
wait $server
kill $watch 2>/dev/null
`

func start(bin, dir string, settings []string) (*Server, error) {
	args := []string{"-c", script, "testpg", bin, dir}
	for _, setting := range append([]string{
		"listen_addresses=",
		"unix_socket_directories=" + dir,
		"port=5432",
		"max_connections=200",
		"fsync=off",
	}, settings...) {
		args = append(args, "-c", setting)
	}
	cmd := exec.Command("/bin/sh", args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"} // nothing of the caller's: PGPORT, PGDATA, …
	cmd.Dir = "/"
	cmd.WaitDelay = 10 * time.Second
	log := &tail{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := asOrdinaryUser(cmd, dir); err != nil {
		return nil, err
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	s := &Server{dir: dir, stop: sync.OnceFunc(func() {
		stdin.Close()
		<-ended
	})}
	if err := s.await(ended); err != nil {
		s.stop()
		return nil, fmt.Errorf("PostgreSQL in %s did not start: %w\n%s", bin, err, log)
	}
	return s, nil
}

// await returns once the server answers.
func (s *Server) await(ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), startup)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.dsn("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-ended:
			return errors.New("it ended")
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the server at once, with its connections, and removes its folder.
// A second Stop does nothing.
func (s *Server) Stop() { s.stop() }

// NewDatabase creates an empty database under a name no other has and returns
// its postgres:// URL, for pgx and for usher's --db. It lives as long as the
// server.
func (s *Server) NewDatabase(ctx context.Context) (dsn string, err error) {
	conn, err := pgx.Connect(ctx, s.dsn("postgres"))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	name := "usher" + strconv.FormatInt(s.next.Add(1), 10)
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	return s.dsn(name), nil
}

func (s *Server) dsn(database string) string {
	return "postgres:///" + database + "?" + url.Values{"host": {s.dir}, "port": {"5432"}, "user": {"postgres"}}.Encode()
}

var running atomic.Pointer[Server]

// Default is the server that the tests of this process share: started by the
// first call, stopped by Main or with the process. Its error is Start's.
var Default = sync.OnceValues(func() (*Server, error) {
	s, err := Start()
	running.Store(s)
	return s, err
})

// Main runs m's tests, stops Default if one of them started it, and exits. It
// is the body of TestMain(m *testing.M).
func Main(m interface{ Run() int }) {
	code := m.Run()
	if s := running.Load(); s != nil {
		s.Stop()
	}
	os.Exit(code)
}

// binaries finds the folder of initdb and postgres: PATH first, then Debian's
// folders, newest first.
func binaries() (string, error) {
	var dirs []string
	if path, err := exec.LookPath("initdb"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	installed, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is good: no error
	dirs = append(dirs, newestFirst(installed)...)
	for _, dir := range dirs {
		if isFile(filepath.Join(dir, "initdb")) && isFile(filepath.Join(dir, "postgres")) {
			return dir, nil
		}
	}
	return "", ErrNoBinaries
}

// newestFirst sorts folders such as /usr/lib/postgresql/15/bin by their version
// as a number: 15 before 9.6.
func newestFirst(dirs []string) []string {
	version := func(dir string) float64 {
		v, err := strconv.ParseFloat(filepath.Base(filepath.Dir(dir)), 64)
		if err != nil {
			return 0
		}
		return v
	}
	return slices.SortedFunc(slices.Values(dirs), func(a, b string) int {
		switch va, vb := version(a), version(b); {
		case va > vb:
			return -1
		case va < vb:
			return 1
		}
		return 0
	})
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// tail keeps the last of what is written to it, for an error's text.
type tail struct {
	mu   sync.Mutex
	text []byte
}

var _ io.Writer = (*tail)(nil)

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if extra := len(t.text) - 4096; extra > 0 {
		t.text = t.text[extra:]
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.text))
}
