package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// taker is a server that takes events and remembers their ids; answer may refuse.
type taker struct {
	mu        sync.Mutex
	ids       []string
	calls     int
	answer    func(call int, w http.ResponseWriter) bool // true: it has answered
	unmatched int                                        // of each batch, as it answers
}

func (s *taker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	var events []struct{ ID string }
	if s.answer != nil && s.answer(s.calls, w) {
		io.Copy(io.Discard, r.Body)
		return
	}
	if err := json.NewDecoder(r.Body).Decode(&events); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, e := range events {
		s.ids = append(s.ids, e.ID)
	}
	fmt.Fprintf(w, `{"accepted":%d,"duplicates":0,"unmatched":%d,"rejected":[]}`, len(events), s.unmatched)
}

// set begins anew with another answer.
func (s *taker) set(answer func(call int, w http.ResponseWriter) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.ids = answer, nil
}

// got is what was taken so far.
func (s *taker) got() (ids []string, calls int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ids), s.calls
}

func problem(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"code":%q,"detail":"no: %s"}`, code, code)
}

// numbered writes a file with a header of h and n rows made by row.
func numbered(t *testing.T, name, h string, n int, row string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(h)
	for i := 1; i <= n; i++ {
		b.WriteString(strings.ReplaceAll(row, "N", fmt.Sprint(i)))
	}
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func upTo(n int, form string) []string {
	var all []string
	for i := 1; i <= n; i++ {
		all = append(all, fmt.Sprintf(form, i))
	}
	return all
}

// TestIngestGoesOn: an ingest that was cut off goes on after the last batch that
// was recorded, with the right row numbers; --restart begins anew.
func TestIngestGoesOn(t *testing.T) {
	t.Parallel()
	files := map[string]struct {
		file string
		args []string
		form string
	}{
		"ndjson": {numbered(t, "e.ndjson", "", 2500, `{"specversion":"1.0","id":"N","source":"s","type":"t","subject":"c"}`+"\n"), nil, "%d"},
		"csv": {numbered(t, "e.csv", "\ufeffName,Text\r\n", 2500, "N,\"two\r\nlines, N\"\r\n"),
			[]string{"--map", "id=row-{row},source==s,type==t,subject==c,data.text=Text,data.name=Name"}, "row-%d"},
	}
	for name, test := range files {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &taker{answer: func(call int, w http.ResponseWriter) bool {
				if call == 3 {
					problem(w, http.StatusForbidden, "forbidden")
				}
				return call == 3
			}}
			web := httptest.NewServer(s)
			defer web.Close()
			env := []string{"USHER_URL=" + web.URL, "USHER_KEY=usk_x"}
			args := append([]string{"ingest", test.file}, test.args...)
			if _, errs, code := runUsher(t, env, args...); code != exitUsage || !strings.Contains(errs, "no: forbidden") {
				t.Fatalf("cut off: exit code %d: %s", code, errs)
			}
			if ids, _ := s.got(); len(ids) != 2000 {
				t.Fatalf("got %d events before the cut, want 2000", len(ids))
			}
			out, errs, code := runUsher(t, env, args...)
			if code != exitDone || !strings.HasPrefix(out, "2500 accepted") || !strings.Contains(errs, "continues after line") {
				t.Fatalf("going on: exit code %d: %s%s", code, out, errs)
			}
			ids, _ := s.got()
			if want := upTo(2500, test.form); !slices.Equal(ids, want) {
				t.Errorf("got %d events, want each of %d once and in order; the first after the cut is %s",
					len(ids), len(want), ids[min(2000, len(ids)-1)])
			}
			if _, err := os.Stat(test.file + sidecarSuffix); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the sidecar is left behind: %v", err)
			}
		})
	}
}

// TestIngestRestart: a sidecar is left alone where it is another file's by now,
// or with --restart.
func TestIngestRestart(t *testing.T) {
	t.Parallel()
	s := &taker{}
	web := httptest.NewServer(s)
	defer web.Close()
	env := []string{"USHER_URL=" + web.URL, "USHER_KEY=usk_x"}
	file := numbered(t, "e.ndjson", "", 1500, `{"id":"N"}`+"\n")
	cut := func() {
		t.Helper()
		s.set(func(_ int, w http.ResponseWriter) bool {
			if len(s.ids) >= 1000 { // s is locked
				problem(w, http.StatusForbidden, "forbidden")
				return true
			}
			return false
		})
		if _, errs, code := runUsher(t, env, "ingest", file); code != exitUsage {
			t.Fatalf("exit code %d: %s", code, errs)
		}
		s.set(nil)
	}
	whole := func(args ...string) {
		t.Helper()
		_, errs, code := runUsher(t, env, args...)
		if ids, _ := s.got(); code != exitDone || len(ids) != 1500 {
			t.Errorf("usher %q: exit code %d, %d events: %s", args, code, len(ids), errs)
		}
	}
	cut()
	whole("ingest", "--restart", file)
	cut()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[7] = '9'
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	whole("ingest", file) // another file by now
}

// TestIngestWaits: a busy server is waited for as long as it says.
func TestIngestWaits(t *testing.T) {
	t.Parallel()
	s := &taker{answer: func(call int, w http.ResponseWriter) bool {
		if call > 2 {
			return false
		}
		w.Header().Set("Retry-After", "1")
		problem(w, []int{429, 503}[call-1], []string{"rate_limited", "unavailable"}[call-1])
		return true
	}}
	web := httptest.NewServer(s)
	defer web.Close()
	file := numbered(t, "e.ndjson", "", 3, `{"id":"N"}`+"\n")
	out, errs, code := runUsher(t, []string{"USHER_URL=" + web.URL, "USHER_KEY=usk_x"}, "ingest", file)
	if _, calls := s.got(); code != exitDone || calls != 3 || !strings.HasPrefix(out, "3 accepted") {
		t.Errorf("exit code %d after %d calls: %s%s", code, calls, out, errs)
	}
}

// TestIngestFindsTheLine: a line for which a server refuses the whole request is
// found, and its neighbours are recorded.
func TestIngestFindsTheLine(t *testing.T) {
	t.Parallel()
	s := &taker{}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if strings.Contains(string(b), `"id":"77"`) {
			problem(w, http.StatusBadRequest, "invalid")
			return
		}
		r.Body = io.NopCloser(strings.NewReader(string(b)))
		s.ServeHTTP(w, r)
	}))
	defer web.Close()
	file := numbered(t, "e.ndjson", "", 100, `{"id":"N"}`+"\n")
	out, errs, code := runUsher(t, []string{"USHER_URL=" + web.URL, "USHER_KEY=usk_x"}, "ingest", file)
	if code != exitUsage || out != "99 accepted, 0 duplicates, 1 rejected\n" ||
		!strings.Contains(errs, "e.ndjson:77: invalid") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
}

// TestIngestSaysWhatNoMeterReads: events that were accepted and count nowhere are not
// passed over in silence.
func TestIngestSaysWhatNoMeterReads(t *testing.T) {
	t.Parallel()
	s := &taker{unmatched: 1}
	web := httptest.NewServer(s)
	defer web.Close()
	file := numbered(t, "e.ndjson", "", 3, `{"id":"N"}`+"\n")
	out, errs, code := runUsher(t, []string{"USHER_URL=" + web.URL, "USHER_KEY=usk_x"}, "ingest", file)
	if want := "3 accepted, 0 duplicates, 0 rejected\n" +
		"unmatched: no meter reads the type of 1 event that was accepted; GET /v1/events/unmatched lists the types\n"; code != 0 || out != want {
		t.Errorf("exit code %d: got %q %s, want %q", code, out, errs, want)
	}
}

// TestMapping: what becomes of a row.
func TestMapping(t *testing.T) {
	t.Parallel()
	const header, values = "Id,When,N,Text,row\n", "7,2026-03-29 02:30:00.1234567,1.50,0012,r\n"
	for _, test := range []struct{ name, maps, zone, want string }{
		{"columns", "id=Id,source==a,b,type==t,subject=Text", "", `{"id":"7","source":"a,b","specversion":"1.0","subject":"0012","type":"t"}`},
		{"templates", "id={file}#{line}-{row%3},source==s,type=x{Text}y,subject=c-{row%2}", "",
			`{"id":"f.csv#2-1","source":"s","specversion":"1.0","subject":"c-1","type":"x0012y"}`},
		{"a column wins", "id=row,source==s,type==t,subject=line", "", `{"id":"r","source":"s","specversion":"1.0","subject":"2","type":"t"}`},
		{"numbers", "id=Id,source==s,type==t,subject==c,data.n=N,data.deep.text=Text", "",
			`{"data":{"deep":{"text":"0012"},"n":1.50},"id":"7","source":"s","specversion":"1.0","subject":"c","type":"t"}`},
		{"time", "id=Id,source==s,type==t,subject==c,time=When", "America/New_York",
			`{"id":"7","source":"s","specversion":"1.0","subject":"c","time":"2026-03-29T06:30:00.1234567Z","type":"t"}`},
		{"no zone", "id=Id,source==s,type==t,subject==c,time=When", "", "error: --timezone UTC"},
		{"no column", "id=Nr,source==s,type==t,subject==c", "", `error: the header has "Id", "When", "N", "Text", "row"`},
		{"no hole", "id=x{Nr},source==s,type==t,subject==c", "", `error: unknown column "Nr"`},
		{"twice", "id=Id,id=N,source==s,type==t,subject==c", "", "error: id is given twice"},
		{"missing", "id=Id", "", "error: source is missing"},
		{"zone", "id=Id,source==s,type==t,subject==c", "Mars", `error: must be an IANA name such as UTC or Europe/Berlin, got "Mars"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := func() (string, error) {
				m, err := parseMapping([]string{test.maps}, test.zone)
				if err != nil {
					return "", err
				}
				r, err := newCSV("/tmp/f.csv", strings.NewReader(header+values), m, place{Line: 1})
				if err != nil {
					return "", err
				}
				it, err := r.next()
				if it.wrong != "" {
					return it.wrong, err
				}
				return string(it.event), err
			}()
			want, isError := strings.CutPrefix(test.want, "error: ")
			if isError != (err != nil) || !isError && got != want || isError && !strings.Contains(err.Error(), want) {
				t.Errorf("got %s, %v; want %s", got, err, test.want)
			}
		})
	}
}

// TestIngestStopped: Ctrl-C says how to go on, with the exit code that shells give it, also
// while standard input has nothing to read.
func TestIngestStopped(t *testing.T) {
	t.Parallel()
	for _, stdin := range []bool{false, true} {
		calls := make(chan int, 10)
		n := 0
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			n++
			calls <- n
			if n == 3 { // this batch is not answered
				<-r.Context().Done()
				return
			}
			fmt.Fprint(w, `{"accepted":1000,"duplicates":0,"rejected":[]}`)
		}))
		defer web.Close()
		file, batches, want := numbered(t, "e.ndjson", "", 2500, `{"id":"N"}`+"\n"), 3, "stopped after line 2000 of "
		c := exec.Command("usher", "ingest", file)
		if stdin {
			c = exec.Command("usher", "ingest", "-")
			batches, want = 1, "give the same command the same input from its start"
		}
		c.Env = append(os.Environ(), "USHER_URL="+web.URL, "USHER_KEY=usk_x")
		var errs bytes.Buffer
		c.Stderr = &errs
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if stdin {
			io.WriteString(in, strings.Repeat(`{"id":"x"}`+"\n", 1000))
		}
		for range batches {
			<-calls
		}
		c.Process.Signal(os.Interrupt)
		c.Wait()
		if code := c.ProcessState.ExitCode(); code != exitStopped {
			t.Errorf("exit code %d, want %d", code, exitStopped)
		}
		if got := errs.String(); !strings.Contains(got, want) || !strings.Contains(got, "nothing is counted twice") {
			t.Errorf("%q: got %q", want, got)
		}
	}
}
