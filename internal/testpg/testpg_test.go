package testpg

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// holdServer, set in the environment, makes this test binary start a server,
// print its folder and wait to be killed.
const holdServer = "TESTPG_HOLD_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(holdServer) != "" {
		s, err := Start()
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println(s.dir)
		io.Copy(io.Discard, os.Stdin)
		return
	}
	Main(m)
}

// server returns the shared server; without PostgreSQL it skips the test.
func server(t *testing.T) *Server {
	t.Helper()
	s, err := Default()
	if errors.Is(err, ErrNoBinaries) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func setting(t *testing.T, conn *pgx.Conn, name string) string {
	t.Helper()
	var v string
	if err := conn.QueryRow(t.Context(), "SELECT current_setting($1)", name).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDatabasesAreSeparate(t *testing.T) {
	t.Parallel()
	s := server(t)
	const n = 8
	dsns := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var err error
			if dsns[i], err = s.NewDatabase(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for i, dsn := range dsns {
		if slices.Contains(dsns[:i], dsn) {
			t.Fatalf("database %s was given twice", dsn)
		}
		if !strings.HasPrefix(dsn, "postgres://") {
			t.Errorf("got %s, want a postgres:// URL", dsn)
		}
		// Each is empty at first: the same table can be created in all of them.
		if _, err := connect(t, dsn).Exec(t.Context(), "CREATE TABLE t (n bigint)"); err != nil {
			t.Error(err)
		}
	}
}

func TestServerIsPrivateAndRoomy(t *testing.T) {
	t.Parallel()
	dsn, err := server(t).NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, dsn)
	for name, want := range map[string]string{
		"listen_addresses": "",
		"max_connections":  "200",
		"fsync":            "off",
		"server_encoding":  "UTF8",
	} {
		if got := setting(t, conn, name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestTextSortsUnlikeBytes(t *testing.T) {
	t.Parallel()
	dsn, err := server(t).NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, dsn)
	var version int
	var less bool
	if err := conn.QueryRow(t.Context(), "SELECT current_setting('server_version_num')::int, 'a' < 'B'").Scan(&version, &less); err != nil {
		t.Fatal(err)
	}
	if version < 15_00_00 {
		t.Skipf("PostgreSQL %d cannot sort with ICU by default", version)
	}
	if !less {
		t.Error("'a' < 'B' is false: text sorts by bytes, so a missing COLLATE \"C\" would not show")
	}
}

func TestSettingsWinAndStopRemoves(t *testing.T) {
	t.Parallel()
	server(t) // skips without PostgreSQL
	s, err := Start("fsync=on", "max_connections=10")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	dsn, err := s.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, dsn)
	if got := setting(t, conn, "fsync"); got != "on" {
		t.Errorf("fsync: got %s, want on", got)
	}
	if got := setting(t, conn, "max_connections"); got != "10" {
		t.Errorf("max_connections: got %s, want 10", got)
	}
	s.Stop()
	s.Stop() // harmless
	if _, err := pgx.Connect(t.Context(), dsn); err == nil {
		t.Error("the server still answers after Stop")
	}
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder after Stop: got %v, want it gone", err)
	}
}

func TestFailedStartSaysWhyAndLeavesNothing(t *testing.T) {
	t.Parallel()
	server(t) // skips without PostgreSQL
	_, err := Start("no_such_setting=1")
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("got %v, want an error that shows the server's own complaint", err)
	}
}

// If the process that started a server is killed and cannot clean up, the server
// ends and its folder is removed all the same.
func TestServerEndsWithItsProcess(t *testing.T) {
	t.Parallel()
	server(t) // skips without PostgreSQL
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holdServer+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir, err := bufio.NewReader(stdout).ReadString('\n')
	dir = strings.TrimSpace(dir)
	if err != nil || !strings.HasPrefix(dir, "/") {
		t.Fatalf("got %q, %v, want the server's folder", dir, err)
	}
	conn := connect(t, (&Server{dir: dir}).URL("postgres"))
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	// The query waits on the server until the server is gone.
	_, err = conn.Exec(t.Context(), "SELECT pg_sleep(60)")
	if err == nil {
		t.Error("the server outlived its process by a minute")
	}
	// The folder is removed last, and nothing announces it.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s is still there a minute after its server", dir)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestNewestFirst(t *testing.T) {
	t.Parallel()
	got := newestFirst([]string{"/p/9.6/bin", "/p/15/bin", "/p/x/bin", "/p/17/bin"})
	want := []string{"/p/17/bin", "/p/15/bin", "/p/9.6/bin", "/p/x/bin"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	t.Parallel()
	log := &tail{}
	fmt.Fprint(log, strings.Repeat("x", 5000))
	fmt.Fprint(log, "the end\n")
	if got := log.String(); len(got) > 4096 || !strings.HasSuffix(got, "xthe end") {
		t.Errorf("got %d bytes ending %q, want at most 4096 ending in the end", len(got), got[len(got)-8:])
	}
}

// A killed server has everything it committed after a restart, and a standby has it
// when it takes over.
func TestKillRestartAndFailover(t *testing.T) {
	t.Parallel()
	server(t) // skips without PostgreSQL
	primary, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	defer primary.Stop()
	dsn, err := primary.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, dsn).Exec(t.Context(), "CREATE TABLE t (n bigint); INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if conn, err := pgx.Connect(t.Context(), dsn); err == nil {
		conn.Close(t.Context())
		t.Error("the server still answers after Kill")
	}
	if err := primary.Restart(); err != nil {
		t.Fatal(err)
	}
	standby, err := primary.Standby()
	if err != nil {
		t.Fatal(err)
	}
	defer standby.Stop()
	both := URL(connect(t, dsn).Config().Database, standby, primary)
	conn := connect(t, both)
	if got := setting(t, conn, "unix_socket_directories"); got != primary.dir {
		t.Errorf("a client that writes went to %s, want the primary's %s", got, primary.dir)
	}
	if _, err := conn.Exec(t.Context(), "INSERT INTO t VALUES (2)"); err != nil {
		t.Fatal(err)
	}
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	conn = connect(t, both)
	var sum int
	if _, err := conn.Exec(t.Context(), "INSERT INTO t VALUES (4)"); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), "SELECT sum(n) FROM t").Scan(&sum); err != nil || sum != 7 {
		t.Errorf("after the failover: got %d, %v, want all of 1, 2 and 4", sum, err)
	}
}
