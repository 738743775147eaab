package main

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// process is the real program, serving.
type process struct {
	cmd   *exec.Cmd
	addr  string
	ready time.Duration // from its start until /readyz answers 200
	stop  func()
}

// build compiles the program as a release does.
func build(b testing.TB) string {
	b.Helper()
	program := filepath.Join(b.TempDir(), "usher")
	c := exec.Command("go", "build", "-trimpath", "-o", program, "../../cmd/usher")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return program
}

// serve starts the program on a database and waits until it is ready.
func serve(b testing.TB, program, dsn string) *process {
	b.Helper()
	portFile := filepath.Join(b.TempDir(), "port")
	p := &process{cmd: exec.Command(program, "serve", "--db", dsn, "--listen", "127.0.0.1:0", "--port-file", portFile, "--log-level", "warn")}
	p.cmd.Stderr = os.Stderr
	began := time.Now()
	must(b, p.cmd.Start())
	p.stop = func() {
		if p.cmd.ProcessState == nil {
			p.cmd.Process.Signal(os.Interrupt)
			p.cmd.Wait()
		}
	}
	b.Cleanup(p.stop)
	for time.Since(began) < time.Minute {
		if p.addr == "" {
			text, _ := os.ReadFile(portFile)
			p.addr = strings.TrimSpace(string(text))
		}
		if p.addr != "" {
			if res, err := http.Get("http://" + p.addr + "/readyz"); err == nil {
				res.Body.Close()
				if res.StatusCode == http.StatusOK {
					p.ready = time.Since(began)
					return p
				}
			}
		}
		time.Sleep(time.Millisecond)
	}
	b.Fatalf("%s serves nothing after a minute", program)
	return nil
}

// rss returns the memory of the process in MB; 0 if the system does not report it as
// Linux does.
func (p *process) rss(b testing.TB) float64 {
	b.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/status")
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(text, []byte("VmRSS:"))
	kb, err := strconv.ParseFloat(strings.Fields(string(rest))[0], 64)
	must(b, err)
	return kb * 1024 / 1e6
}

// gauge returns the sum of a metric's values in /metrics.
func (p *process) gauge(b testing.TB, name string) (sum float64) {
	b.Helper()
	res, err := http.Get("http://" + p.addr + "/metrics")
	must(b, err)
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), name) {
			v, err := strconv.ParseFloat(lines.Text()[strings.LastIndexByte(lines.Text(), ' ')+1:], 64)
			must(b, err)
			sum += v
		}
	}
	_, err = io.Copy(io.Discard, res.Body)
	must(b, err)
	return sum
}
