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
	"strings"
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

// Server is a PostgreSQL of its own, empty at first, reachable only through a
// unix socket. Its methods may be called from many goroutines, except that Kill,
// Restart, Standby and Promote are one caller's at a time.
type Server struct {
	bin, dir string
	settings []string
	next     atomic.Int64
	keep     *os.File // while any process holds it, the folder stays
	kept     *exec.Cmd
	run      *run // the newest; it may have ended
	stop     func()
}

// run is one life of the server's processes, from a start to its end.
type run struct {
	stdin io.Closer // closing it ends the server at once
	ended chan struct{}
	log   *tail
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
	s, err := newServer(bin, settings)
	if err != nil {
		return nil, err
	}
	// PostgreSQL before 15 cannot sort with ICU by default, and then sorts by bytes.
	initdb := []string{"-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"}
	if err := s.do("initdb", append(initdb, "--locale-provider=icu", "--icu-locale=en-US")...); err != nil {
		if err := s.do("initdb", initdb...); err != nil {
			s.Stop()
			return nil, err
		}
	}
	if err := s.Restart(); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// keeper removes the folder $1 when its standard input ends: when this process
// and everything that it started for the server are gone. It must live through a
// closed output: nobody reads it then.
const keeper = `trap '' PIPE; cat >/dev/null; cd / && rm -rf "$1"`

// newServer makes the folder of a server, and the keeper that removes it.
func newServer(bin string, settings []string) (*Server, error) {
	// Not os.TempDir: the path of a socket must stay below 104 bytes.
	dir, err := os.MkdirTemp("/tmp", "usher-pg-")
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, dir: dir, settings: settings}
	s.stop = sync.OnceFunc(func() {
		if s.run != nil {
			s.run.end()
		}
		s.keep.Close()
		s.kept.Wait()
	})
	r, w, err := os.Pipe()
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	defer r.Close()
	s.keep = w
	s.kept = exec.Command("/bin/sh", "-c", keeper, "testpg", dir)
	s.kept.Dir, s.kept.Stdin = "/", r
	if err = asOrdinaryUser(s.kept, dir); err == nil {
		err = s.kept.Start()
	}
	if err != nil {
		w.Close()
		os.RemoveAll(dir)
		return nil, err
	}
	return s, nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// command is a program that holds the folder as long as it runs.
func (s *Server) command(name string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"} // nothing of the caller's: PGPORT, PGDATA, …
	cmd.Dir = s.dir
	cmd.WaitDelay = 10 * time.Second
	cmd.ExtraFiles = []*os.File{s.keep}
	return cmd, asOrdinaryUser(cmd, s.dir)
}

// do runs one of PostgreSQL's programs to its end.
func (s *Server) do(program string, args ...string) error {
	cmd, err := s.command(filepath.Join(s.bin, program), args...)
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s in %s: %w\n%s", program, s.bin, err, bytes.TrimSpace(out))
	}
	return nil
}

// runner runs the server as a child of the shell and ends it when standard
// input ends: when that pipe is closed, or when the process that holds its other
// end is gone. Its arguments are the server and the server's own arguments.
const runner = `
trap '' PIPE
exec 4<&0
"$@" 4<&- </dev/null & server=$!
{ read -r _ <&4; kill -QUIT $server; } 3>&- & watch=$!
wait $server
kill $watch 2>/dev/null
`

// end ends the server's processes without a checkpoint, as a crash would.
func (r *run) end() {
	r.stdin.Close()
	<-r.ended
}

// Restart serves again after Kill, from what the folder holds, and returns once
// the server answers: it has recovered then.
func (s *Server) Restart() error {
	args := []string{"-c", runner, "testpg", filepath.Join(s.bin, "postgres"), "-D", s.data()}
	for _, setting := range append([]string{
		"listen_addresses=",
		"unix_socket_directories=" + s.dir,
		"port=5432",
		"max_connections=200",
		"fsync=off",
	}, s.settings...) {
		args = append(args, "-c", setting)
	}
	cmd, err := s.command("/bin/sh", args...)
	if err != nil {
		return err
	}
	r := &run{ended: make(chan struct{}), log: &tail{}}
	cmd.Stdout, cmd.Stderr = r.log, r.log
	if r.stdin, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		cmd.Wait()
		close(r.ended)
	}()
	s.run = r
	if err := s.await(r.ended); err != nil {
		r.end()
		return fmt.Errorf("PostgreSQL in %s did not start: %w\n%s", s.bin, err, r.log)
	}
	return nil
}

// Kill ends every process of the server with SIGKILL, as a crash of the machine
// would, and keeps the folder: Restart serves it again.
func (s *Server) Kill() error {
	b, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	postmaster, err := strconv.Atoi(line)
	if err != nil {
		return err
	}
	killed, err := killTree(postmaster)
	if err != nil {
		return err
	}
	s.run.end()
	// A process that is still dying holds the shared memory, and a new server
	// would refuse to start beside it.
	for deadline := time.Now().Add(startup); slices.ContainsFunc(killed, alive); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("processes of PostgreSQL outlive SIGKILL")
		}
	}
	return nil
}

// Standby starts a copy of the server that follows it, and makes the server wait
// for the copy with every commit: what was committed from now on is in both.
// The copy is read-only until Promote.
func (s *Server) Standby() (*Server, error) {
	c, err := newServer(s.bin, s.settings)
	if err != nil {
		return nil, err
	}
	err = c.do("pg_basebackup", "-h", s.dir, "-p", "5432", "-U", "postgres", "-D", c.data(), "-R", "-X", "stream", "-c", "fast",
		"--no-sync")
	if err == nil {
		err = c.Restart()
	}
	if err == nil {
		// After the copy was made, which must not wait for a standby of its own.
		err = s.exec("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
	}
	if err == nil {
		err = s.until("SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')")
	}
	if err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

// Promote makes a standby a server that takes writes, and returns once it does.
// Call it only after the server that it followed was killed.
func (s *Server) Promote() error {
	if err := s.exec("SELECT pg_promote(false)"); err != nil {
		return err
	}
	return s.until("SELECT NOT pg_is_in_recovery()")
}

// exec runs statements, each by itself.
func (s *Server) exec(statements ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startup)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, text := range statements {
		if _, err := conn.Exec(ctx, text); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
	}
	return nil
}

// until waits for a query to answer true.
func (s *Server) until(query string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startup)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for {
		var yes bool
		if err := conn.QueryRow(ctx, query).Scan(&yes); err != nil {
			return fmt.Errorf("%s: %w", query, err)
		}
		if yes {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// await returns once the server answers.
func (s *Server) await(ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), startup)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
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
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	name := "usher" + strconv.FormatInt(s.next.Add(1), 10)
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	return s.URL(name), nil
}

// URL is the postgres:// address of one of the server's databases.
func (s *Server) URL(database string) string { return URL(database, s) }

// URL is the postgres:// address of a database that is on all of the servers: a
// client takes the first that accepts writes.
func URL(database string, servers ...*Server) string {
	hosts, ports := make([]string, len(servers)), make([]string, len(servers))
	for i, s := range servers {
		hosts[i], ports[i] = s.dir, "5432"
	}
	q := url.Values{"host": {strings.Join(hosts, ",")}, "port": {strings.Join(ports, ",")}, "user": {"postgres"}}
	if len(servers) > 1 {
		q.Set("target_session_attrs", "read-write")
	}
	return "postgres:///" + database + "?" + q.Encode()
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
