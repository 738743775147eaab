package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"
)

// terminals says which of the standard streams are terminals.
type terminals struct{ in, out, err, colour bool }

func findTerminals() terminals {
	is := func(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
	t := terminals{in: is(os.Stdin), out: is(os.Stdout), err: is(os.Stderr)}
	t.colour = t.out && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return t
}

func (a *app) colour(code, s string) string {
	if !a.tty.colour {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (a *app) green(s string) string { return a.colour("32", s) }
func (a *app) red(s string) string   { return a.colour("31", s) }
func (a *app) bold(s string) string  { return a.colour("1", s) }

// printJSON writes v as one line of JSON.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table prints rows in columns under a heading, or none if there are no rows.
func (a *app) table(none string, heading []string, rows [][]string) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(a.out, none)
		return err
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(heading, "\t"))
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}

// fields prints names and values in two columns; empty values are left out.
func fields(out io.Writer, indent string, pairs ...string) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(w, "%s%s\t%s\n", indent, pairs[i], pairs[i+1])
		}
	}
	w.Flush()
}

// object is an answer of the server, with numbers as they were written.
type object map[string]any

func parseObject(b []byte) (object, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var o object
	err := d.Decode(&o)
	return o, err
}

// text returns a value for people to read; "" if it is absent.
func (o object) text(name string) string { return words(o[name]) }

func (o object) bool(name string) bool { b, _ := o[name].(bool); return b }

func (o object) list(name string) []object {
	all, _ := o[name].([]any)
	var out []object
	for _, v := range all {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

func (o object) strings(name string) []string {
	all, _ := o[name].([]any)
	out := make([]string, len(all))
	for i := range all {
		out[i] = words(all[i])
	}
	return out
}

func (o object) object(name string) object { m, _ := o[name].(map[string]any); return m }

// window reads the span of a decision's or an allowance's window.
func (o object) window() string {
	w := o.object("window")
	if w == nil {
		return ""
	}
	if w.text("end") == "" { // a grant that does not end
		return "from " + w.text("start") + " on"
	}
	return w.text("start") + " to " + w.text("end")
}

func words(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return fmt.Sprint(v)
	case []any:
		parts := make([]string, len(v))
		for i := range v {
			parts[i] = words(v[i])
		}
		return strings.Join(parts, ", ")
	}
	b, _ := json.Marshal(v) // what was decoded can be encoded
	return string(b)
}

// printText prints an answer unchanged, with one line end.
func (a *app) printText(b []byte) error {
	_, err := a.out.Write(append(bytes.TrimRight(b, "\n"), '\n'))
	return err
}
