// Command bench reads what Go's benchmarks print and compares it with the targets, as
// a table. With -growth it writes the growth curves as CSV, draws them and prints
// them. It measures nothing itself; the benchmarks in this folder do.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"
)

func main() {
	growth := flag.String("growth", "", "write the growth curves to `NAME`.csv and NAME.svg")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, os.Stderr, *growth); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out, progress io.Writer, growth string) error {
	results, err := read(in, progress)
	if err != nil {
		return err
	}
	if growth == "" {
		table(out, results)
		return nil
	}
	points := curves(results)
	if len(points) == 0 {
		return fmt.Errorf("the input has no growth curves")
	}
	if err := os.WriteFile(growth+".csv", toCSV(points), 0o644); err != nil {
		return err
	}
	tables(out, points)
	return os.WriteFile(growth+".svg", draw(points), 0o644)
}

// result is one line of a benchmark: its name without "Benchmark" and the number
// of processors, and its metrics by unit.
type result struct {
	name    string
	metrics map[string]float64
}

// read reads benchmark lines, and passes all lines on as they come. If a benchmark
// failed, it returns an error after it has read everything.
func read(in io.Reader, progress io.Writer) (results []result, err error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		fmt.Fprintln(progress, line)
		fields := strings.Fields(line)
		if strings.HasPrefix(line, "FAIL") || strings.HasPrefix(line, "--- FAIL") {
			err = fmt.Errorf("a benchmark failed: %s", line)
		}
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		r := result{name: strings.TrimPrefix(fields[0], "Benchmark"), metrics: map[string]float64{}}
		if i := strings.LastIndexByte(r.name, '-'); i > 0 {
			if _, err := strconv.Atoi(r.name[i+1:]); err == nil {
				r.name = r.name[:i]
			}
		}
		for i := 2; i+1 < len(fields); i += 2 {
			if v, err := strconv.ParseFloat(fields[i], 64); err == nil {
				r.metrics[fields[i+1]] = v
			}
		}
		results = append(results, r)
	}
	if lines.Err() != nil {
		return nil, lines.Err()
	}
	return results, err
}

// target is a bound on one metric of one benchmark.
type target struct {
	name, what  string
	bench, unit string
	atMost      bool // false: at least
	bound       float64
	show        string // the format of bound and value
}

var targets = []target{
	{"B1", "decide a switch", "B1_Switch", "ns/op", true, 150, "%.0f ns"},
	{"B1", "decide a config value", "B1_Config", "ns/op", true, 150, "%.0f ns"},
	{"B1", "decide metered: 3 allowances, 2 caps", "B1_Metered", "ns/op", true, 400, "%.0f ns"},
	{"B1", "allocations of the same", "B1_Metered", "allocs/op", true, 0, "%.0f"},
	{"B2", "check over HTTP, of the bare handler", "B2_CheckRatio", "ratio", false, 1, "%.2f"},
	{"B3", "consume over HTTP, one limit, keys by time, of the bare handler", "B3_Consume/hot-ordered", "ratio", false, 0.5, "%.2f"},
	{"B3", "the same, random keys", "B3_Consume/hot-random", "ratio", false, 0.3, "%.2f"},
	{"B3", "the same, 64 customers, keys by time", "B3_Consume/ordered", "ratio", false, 0.5, "%.2f"},
	{"B3", "the same, 64 customers, random keys", "B3_Consume/random", "ratio", false, 0.3, "%.2f"},
	{"B4", "events, SQLite, ids by time", "B4_Events/sqlite-ordered", "events/s", false, 50_000, "%.0f/s"},
	{"B4", "events, SQLite, random ids", "B4_Events/sqlite-random", "events/s", false, 20_000, "%.0f/s"},
	{"B4", "events, PostgreSQL, ids by time", "B4_Events/postgres", "events/s", false, 40_000, "%.0f/s"},
	{"B5", "check p50, 1,000,000 customers, of 1,000; in memory", "B5B6_Customers", "ratio", true, 1.5, "%.2f"},
	{"B5", "the same; any of the million", "B5B6_Customers", "any-ratio", true, 1.5, "%.2f"},
	{"B6", "ready after start, 1,000,000 customers", "B5B6_Customers", "ready-ms", true, 2000, "%.0f ms"},
	{"B6", "memory before the first check, 1,000,000 customers", "B5B6_Customers", "MB", true, 200, "%.0f MB"},
	{"B7", "consume of one hot customer, of 64 customers", "B7_Hot", "ratio", false, 0.8, "%.2f"},
	{"B8", "decide access: 1,000 permissions, 100 roles, 20,000 assignments", "B8_Access/decide", "ns/op", true, 200, "%.0f ns"},
	{"B8", "allocations of the same", "B8_Access/decide", "allocs/op", true, 0, "%.0f"},
	{"B9", "AuthZEN evaluation over HTTP, of the bare handler", "B9_AuthZENRatio", "ratio", false, 0.8, "%.2f"},
	{"B10", "one of 1,000,000 assignments changes: next decisions, slowest", "B10_Recompile/spread", "both-ms", true, 50, "%.1f ms"},
	{"B10", "the same, all of one customer", "B10_Recompile/one-customer", "both-ms", true, 50, "%.1f ms"},
}

// met reports whether v keeps the bound.
func (t *target) met(v float64) bool {
	if t.atMost {
		return v <= t.bound
	}
	return v >= t.bound
}

// table writes every target with what was measured, in Markdown.
func table(out io.Writer, results []result) {
	rows := [][]string{{"", "what", "target", "measured", ""}}
	for _, t := range targets {
		sign, measured, verdict := "≥", "not measured", ""
		if t.atMost {
			sign = "≤"
		}
		for _, r := range results {
			if v, ok := r.metrics[t.unit]; ok && r.name == t.bench {
				measured, verdict = fmt.Sprintf(t.show, v), "below"
				if t.met(v) {
					verdict = "ok"
				}
			}
		}
		rows = append(rows, []string{t.name, t.what, sign + " " + fmt.Sprintf(t.show, t.bound), measured, verdict})
	}
	markdown(out, rows)
}

// markdown writes a table whose first row is its head.
func markdown(out io.Writer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell), 3)
		}
	}
	line := func(row []string, fill string) {
		fmt.Fprint(out, "|")
		for i, cell := range row {
			fmt.Fprint(out, " ", cell, strings.Repeat(fill, widths[i]-utf8.RuneCountInString(cell)), " |")
		}
		fmt.Fprintln(out)
	}
	line(rows[0], " ")
	line(make([]string, len(rows[0])), "-")
	for _, row := range rows[1:] {
		line(row, " ")
	}
}
