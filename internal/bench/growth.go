package main

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// point is one value of a growth curve: metric at n of what grows.
type point struct {
	grows  string // "customers", "clients"
	n      int
	metric string
	value  float64
}

// curves are the results of the benchmarks named Growth_what/n.
func curves(results []result) (points []point) {
	for _, r := range results {
		grows, n, ok := strings.Cut(strings.TrimPrefix(r.name, "Growth_"), "/")
		count, err := strconv.Atoi(n)
		if !ok || err != nil || !strings.HasPrefix(r.name, "Growth_") {
			continue
		}
		for metric, v := range r.metrics {
			if metric != "ns/op" {
				points = append(points, point{strings.ToLower(grows), count, metric, v})
			}
		}
	}
	slices.SortFunc(points, func(x, y point) int {
		return cmp.Or(strings.Compare(x.grows, y.grows), strings.Compare(x.metric, y.metric), x.n-y.n)
	})
	return points
}

func toCSV(points []point) []byte {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	w.Write([]string{"grows", "n", "metric", "value"})
	for _, p := range points {
		w.Write([]string{p.grows, strconv.Itoa(p.n), p.metric, strconv.FormatFloat(p.value, 'f', -1, 64)})
	}
	w.Flush()
	return b.Bytes()
}

func fromCSV(text []byte) (points []point, err error) {
	rows, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	if err != nil || len(rows) == 0 {
		return nil, fmt.Errorf("read the growth curves: %w", err)
	}
	for _, row := range rows[1:] {
		n, err := strconv.Atoi(row[1])
		if err != nil {
			return nil, err
		}
		v, err := strconv.ParseFloat(row[3], 64)
		if err != nil {
			return nil, err
		}
		points = append(points, point{row[0], n, row[2], v})
	}
	return points, nil
}

// panel is one small plot: its curves share a logarithmic scale.
type panel struct {
	title, grows string
	unit         string
	curves       []curve
}

type curve struct{ metric, label string }

var panels = []panel{
	{"Check, in memory", "customers", "µs", []curve{{"p50-µs", "p50"}, {"p99-µs", "p99"}}},
	{"Check, any customer", "customers", "µs", []curve{{"any-p50-µs", "p50"}, {"any-p99-µs", "p99"}}},
	{"Ready after start", "customers", "ms", []curve{{"ready-ms", ""}}},
	{"Memory before a check", "customers", "MB", []curve{{"MB", ""}}},
	{"Answers", "clients", "per second", []curve{{"checks/s", "check"}, {"consumes/s", "consume"}}},
	{"Check", "clients", "µs", []curve{{"check-p50-µs", "p50"}, {"check-p99-µs", "p99"}}},
	{"Consume", "clients", "µs", []curve{{"consume-p50-µs", "p50"}, {"consume-p99-µs", "p99"}}},
}

// tables writes the curves in Markdown, one table for customers and one for clients.
func tables(out io.Writer, points []point) {
	for _, grows := range []string{"customers", "clients"} {
		rows := [][]string{{grows}}
		for _, p := range points {
			if n := strconv.Itoa(p.n); p.grows == grows && !slices.ContainsFunc(rows, func(row []string) bool { return row[0] == n }) {
				rows = append(rows, []string{n})
			}
		}
		slices.SortStableFunc(rows[1:], func(x, y []string) int { return cmp.Or(len(x[0])-len(y[0]), strings.Compare(x[0], y[0])) })
		for _, panel := range panels {
			for _, c := range panel.curves {
				if panel.grows != grows {
					continue
				}
				rows[0] = append(rows[0], strings.TrimSpace(panel.title+" "+c.label)+", "+panel.unit)
				for i, row := range rows[1:] {
					at := slices.IndexFunc(points, func(p point) bool { return p.grows == grows && p.metric == c.metric && strconv.Itoa(p.n) == row[0] })
					cell := ""
					if at >= 0 {
						cell = strconv.FormatFloat(points[at].value, 'f', 0, 64)
					}
					rows[i+1] = append(row, cell)
				}
			}
		}
		markdown(out, rows)
		fmt.Fprintln(out)
	}
}

// Every colour is an attribute, which any renderer knows, and a class, which the
// style changes for dark pages.
const (
	panelWidth, panelHeight = 250, 220
	left, right, top, foot  = 46, 58, 34, 42
	style                   = `<style>
text { font-family: system-ui, sans-serif; font-size: 11px }
.title { font-size: 13px; font-weight: 600 }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117 } .ink { fill: #e6edf3 } .faint { fill: #9da7b3 } .grid { stroke: #30363d }
.line0 { stroke: #58a6ff } .dot0 { fill: #58a6ff } .line1 { stroke: #f0883e } .dot1 { fill: #f0883e }
}
</style>`
)

var colours = []string{"#0969da", "#bc4c00"}

// draw returns the picture. Each panel's axes begin and end at powers of ten.
func draw(points []point) []byte {
	var b bytes.Buffer
	const across = 4 // of customers in the first row, of clients in the second
	height := (len(panels) + across - 1) / across * panelHeight
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d"`+
		` role="img" aria-label="Growth curves">`+"\n%s\n",
		across*panelWidth, height, across*panelWidth, height, style)
	fmt.Fprintf(&b, `<rect class="page" fill="#ffffff" width="%d" height="%d"/>`+"\n", across*panelWidth, height)
	for i, p := range panels {
		fmt.Fprintf(&b, `<g transform="translate(%d %d)">`+"\n", i%across*panelWidth, i/across*panelHeight)
		p.draw(&b, points)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func (p *panel) draw(b *bytes.Buffer, points []point) {
	lines := make([][]point, len(p.curves))
	var xs []int
	low, high := math.Inf(1), math.Inf(-1)
	for _, pt := range points {
		i := slices.IndexFunc(p.curves, func(c curve) bool { return c.metric == pt.metric })
		if i < 0 || pt.grows != p.grows || pt.value <= 0 {
			continue
		}
		lines[i] = append(lines[i], pt)
		if !slices.Contains(xs, pt.n) {
			xs = append(xs, pt.n)
		}
		low, high = min(low, pt.value), max(high, pt.value)
	}
	fmt.Fprintf(b, `<text class="title ink" fill="#1f2328" x="%d" y="20">%s, %s</text>`+"\n", 12, p.title, p.unit)
	if len(xs) < 2 {
		fmt.Fprintf(b, `<text class="faint" fill="#59636e" x="%d" y="60">not measured</text>`+"\n", left)
		return
	}
	slices.Sort(xs)
	from, to := math.Floor(math.Log10(low)), math.Ceil(math.Log10(high))
	if to == from {
		to++
	}
	x := func(n int) float64 {
		a, z := math.Log(float64(xs[0])), math.Log(float64(xs[len(xs)-1]))
		return left + (math.Log(float64(n))-a)/(z-a)*(panelWidth-left-right)
	}
	y := func(v float64) float64 {
		return panelHeight - foot - (math.Log10(v)-from)/(to-from)*(panelHeight-top-foot)
	}
	for e := from; e <= to; e++ {
		v := math.Pow(10, e)
		fmt.Fprintf(b, `<line class="grid" stroke="#d1d9e0" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`+
			`<text class="faint" fill="#59636e" text-anchor="end" x="%d" y="%.1f">%s</text>`+"\n",
			left, panelWidth-right, y(v), y(v), left-6, y(v)+4, short(v))
	}
	for _, n := range xs {
		fmt.Fprintf(b, `<text class="faint" fill="#59636e" text-anchor="middle" x="%.1f" y="%d">%s</text>`+"\n", x(n), panelHeight-foot+16,
			short(float64(n)))
	}
	fmt.Fprintf(b, `<text class="faint" fill="#59636e" text-anchor="middle" x="%d" y="%d">%s</text>`+"\n", (left+panelWidth-right)/2,
		panelHeight-foot+31, p.grows)
	for i, line := range lines {
		var path []string
		for _, pt := range line {
			path = append(path, fmt.Sprintf("%.1f,%.1f", x(pt.n), y(pt.value)))
		}
		fmt.Fprintf(b, `<polyline class="line%d" fill="none" stroke="%s" stroke-width="2" points="%s"/>`+"\n", i, colours[i],
			strings.Join(path, " "))
		for _, pt := range line {
			fmt.Fprintf(b, `<circle class="dot%d" fill="%s" r="3" cx="%.1f" cy="%.1f"><title>%s: %s %s</title></circle>`+"\n",
				i, colours[i], x(pt.n), y(pt.value), short(float64(pt.n)), short(pt.value), p.unit)
		}
		if last := line; len(last) > 0 {
			fmt.Fprintf(b, `<text class="dot%d" fill="%s" x="%.1f" y="%.1f">%s</text>`+"\n", i, colours[i], x(last[len(last)-1].n)+7,
				y(last[len(last)-1].value)+4, p.curves[i].label)
		}
	}
}

// short writes 1000 as 1 k and 1000000 as 1 M.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 3, 64) + " M"
	case v >= 1e3:
		return strconv.FormatFloat(v/1e3, 'g', 3, 64) + " k"
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
