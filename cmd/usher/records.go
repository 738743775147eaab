package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// lines reads CloudEvents, one JSON object a line. It skips empty lines.
type lines struct {
	r  *bufio.Reader
	at place
}

// maxLine is the longest line in bytes.
const maxLine = 1 << 20

func newLines(in io.Reader, start place) (*lines, error) {
	if start.Offset > 0 {
		if _, err := in.(io.Seeker).Seek(start.Offset, io.SeekStart); err != nil {
			return nil, err
		}
	}
	return &lines{r: bufio.NewReaderSize(in, 64<<10), at: start}, nil
}

func (l *lines) where() place { return l.at }

func (l *lines) next() (item, error) {
	for {
		text, long, err := l.line()
		if err != nil {
			return item{}, err
		}
		it := item{line: l.at.Line - 1}
		switch text = bytes.TrimSpace(bytes.TrimPrefix(text, []byte("\ufeff"))); {
		case long:
			it.wrong = fmt.Sprintf("the line is longer than %d bytes", maxLine)
		case len(text) == 0:
			continue
		case text[0] != '{' || !json.Valid(text):
			it.wrong = `the line must be one JSON object, such as ` +
				`{"specversion":"1.0","id":"1","source":"app","type":"api.request","subject":"acme"}`
		default:
			it.event = text
		}
		return it, nil
	}
}

// line reads one line. It skips the rest of a line that is too long.
func (l *lines) line() (text []byte, long bool, err error) {
	read := false
	for {
		part, err := l.r.ReadSlice('\n')
		l.at.Offset += int64(len(part))
		read = read || len(part) > 0
		if long = long || len(text)+len(part) > maxLine; !long {
			text = append(text, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return nil, false, err
		case err != nil && !read:
			return nil, false, io.EOF
		}
		l.at.Line++
		l.at.Row++
		return text, long, nil
	}
}

// mapping makes events of CSV rows.
type mapping struct {
	pairs []pair
	zone  *time.Location // of times without a zone; nil: every time must have one
}

type pair struct{ target, source string }

var (
	pairStart = regexp.MustCompile(`^\s*([A-Za-z][A-Za-z0-9_.-]*)=`)
	hole      = regexp.MustCompile(`\{([^{}]*)\}`)
	rowNumber = regexp.MustCompile(`^row(?:%([1-9][0-9]{0,8}))?$`)
	plainJSON = regexp.MustCompile(`^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?$`)
)

// targets are the attributes of a CloudEvent that a mapping can set. All but time are
// required.
var targets = []string{"id", "source", "type", "subject", "time"}

// parseMapping reads --map; nil if it is not given. A comma separates pairs only
// before a new TARGET=, so that texts may contain commas.
func parseMapping(args []string, zone string) (*mapping, error) {
	if len(args) == 0 {
		if zone != "" {
			return nil, wrong("--timezone needs --map: it is for CSV")
		}
		return nil, nil
	}
	m := &mapping{}
	if zone != "" {
		var err error
		if m.zone, err = time.LoadLocation(zone); err != nil || zone == "Local" {
			return nil, wrong("--timezone must be an IANA name such as UTC or Europe/Berlin, got %q", zone)
		}
	}
	for _, arg := range args {
		for i, part := range strings.Split(arg, ",") {
			if found := pairStart.FindStringSubmatch(part); found != nil {
				target := found[1]
				source := part[len(found[0]):]
				name, isData := strings.CutPrefix(target, "data.")
				if !slices.Contains(targets, target) && (!isData || name == "") {
					return nil, wrong("--map: unknown target %q; targets are %s and data.NAME", target, strings.Join(targets, ", "))
				}
				if slices.ContainsFunc(m.pairs, func(p pair) bool { return p.target == target }) {
					return nil, wrong("--map: %s is given twice", target)
				}
				m.pairs = append(m.pairs, pair{target, source})
			} else if i > 0 {
				m.pairs[len(m.pairs)-1].source += "," + part
			} else {
				return nil, wrong("--map must be pairs such as id=Id,subject=Customer,type==api.request, got %q", arg)
			}
		}
	}
	for _, target := range targets[:4] {
		if !slices.ContainsFunc(m.pairs, func(p pair) bool { return p.target == target }) {
			return nil, wrong("--map: %s is missing; every event needs id, source, type and subject", target)
		}
	}
	return m, nil
}

// row is the row that a source is read from.
type row struct {
	fields []string
	number int64
	line   int64
	file   string
}

// compile finds a source's columns in the header.
func compile(source string, header []string) (func(row) string, error) {
	if text, ok := strings.CutPrefix(source, "="); ok {
		return func(row) string { return text }, nil
	}
	if f := one(source, header); f != nil {
		return f, nil
	}
	if !strings.Contains(source, "{") {
		return nil, wrong("--map: unknown column %q; the header has %s; a fixed text is written ==TEXT", source, quoted(header))
	}
	var parts []func(row) string
	rest := source
	for _, at := range hole.FindAllStringSubmatchIndex(source, -1) {
		text, name := source[len(source)-len(rest):at[0]], source[at[2]:at[3]]
		rest = source[at[1]:]
		f := one(name, header)
		if f == nil {
			return nil, wrong("--map: unknown column %q in %q; the header has %s; row, row%%N, line and file are known too",
				name, source, quoted(header))
		}
		parts = append(parts, func(row) string { return text }, f)
	}
	return func(r row) string {
		var b strings.Builder
		for _, p := range parts {
			b.WriteString(p(r))
		}
		return b.String() + rest
	}, nil
}

// one reads a column, or one of the names that every file has; nil if it is neither.
func one(name string, header []string) func(row) string {
	if i := slices.Index(header, name); i >= 0 {
		return func(r row) string { return r.fields[i] }
	}
	switch name {
	case "line":
		return func(r row) string { return strconv.FormatInt(r.line, 10) }
	case "file":
		return func(r row) string { return r.file }
	}
	found := rowNumber.FindStringSubmatch(name)
	if found == nil {
		return nil
	}
	if found[1] == "" {
		return func(r row) string { return strconv.FormatInt(r.number, 10) }
	}
	n, _ := strconv.ParseInt(found[1], 10, 64) // at most nine digits, not 0
	return func(r row) string { return strconv.FormatInt(r.number%n, 10) }
}

func quoted(header []string) string {
	all := make([]string, len(header))
	for i, h := range header {
		all[i] = strconv.Quote(h)
	}
	return strings.Join(all, ", ")
}

// rows reads CSV with a header line.
type rows struct {
	r       *csv.Reader
	m       *mapping
	file    string
	columns int
	sources []func(row) string
	base    place // where r began
	at      place
}

func newCSV(name string, in io.Reader, m *mapping, start place) (*rows, error) {
	r := csv.NewReader(in)
	r.FieldsPerRecord = -1
	header, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, wrong("%s is empty: CSV must begin with a line of column names", name)
	}
	if err != nil {
		return nil, wrong("%s: %s", name, err)
	}
	header = slices.Clone(header)
	header[0] = strings.TrimPrefix(header[0], "\ufeff")
	for i := range header {
		header[i] = strings.TrimSpace(header[i])
	}
	s := &rows{r: r, m: m, file: filepath.Base(name), columns: len(header), base: place{Line: 1}}
	for _, p := range m.pairs {
		f, err := compile(p.source, header)
		if err != nil {
			return nil, err
		}
		s.sources = append(s.sources, f)
	}
	if start.Offset > 0 {
		if _, err := in.(io.Seeker).Seek(start.Offset, io.SeekStart); err != nil {
			return nil, err
		}
		s.r, s.base, s.at = csv.NewReader(in), start, start
		s.r.FieldsPerRecord = -1
	}
	s.r.ReuseRecord = true
	return s, nil
}

func (s *rows) where() place { return s.at }

func (s *rows) next() (item, error) {
	fields, err := s.r.Read()
	if errors.Is(err, io.EOF) {
		return item{}, err
	}
	var bad *csv.ParseError
	if errors.As(err, &bad) {
		return item{}, wrong("%s:%d: %s", s.file, s.base.Line+int64(bad.Line)-1, bad.Err)
	}
	if err != nil {
		return item{}, err
	}
	first, _ := s.r.FieldPos(0)
	last, _ := s.r.FieldPos(len(fields) - 1)
	line := s.base.Line + int64(first) - 1
	s.at = place{Offset: s.base.Offset + s.r.InputOffset(), Row: s.at.Row + 1,
		Line: s.base.Line + int64(last) + int64(strings.Count(fields[len(fields)-1], "\n"))}
	it := item{line: line}
	if len(fields) != s.columns {
		it.wrong = fmt.Sprintf("the row has %d fields and the header %d", len(fields), s.columns)
		return it, nil
	}
	it.event, err = s.m.event(s.sources, row{fields, s.at.Row, line, s.file})
	if err != nil {
		if errors.Is(err, errZone) {
			return it, wrong("%s:%d: %s", s.file, line, err)
		}
		it.wrong = err.Error()
	}
	return it, nil
}

// event returns the CloudEvent of a row. It leaves out empty values of data.
func (m *mapping) event(sources []func(row) string, r row) ([]byte, error) {
	e := map[string]any{"specversion": "1.0"}
	for i, p := range m.pairs {
		v := sources[i](r)
		path, isData := strings.CutPrefix(p.target, "data.")
		switch {
		case isData && v == "":
		case isData:
			var value any = v
			if plainJSON.MatchString(v) {
				value = json.Number(v)
			}
			if err := put(e, "data."+path, value); err != nil {
				return nil, err
			}
		case p.target == "time" && v != "":
			t, err := m.time(v)
			if err != nil {
				return nil, err
			}
			e["time"] = t.UTC().Format(time.RFC3339Nano)
		case v != "":
			e[p.target] = v
		}
	}
	return json.Marshal(e)
}

// put sets a value at a path such as data.a.b.
func put(e map[string]any, path string, value any) error {
	names := strings.Split(path, ".")
	for _, n := range names[:len(names)-1] {
		next, ok := e[n].(map[string]any)
		if !ok {
			if _, taken := e[n]; taken {
				return fmt.Errorf("%s is inside a value that is not an object", path)
			}
			next = map[string]any{}
			e[n] = next
		}
		e = next
	}
	e[names[len(names)-1]] = value
	return nil
}

// errZone is the error for a time without a zone if --timezone is not set.
var errZone = errors.New("has no time zone")

// bare are the forms of times without a zone; a fraction may follow the second.
var bare = []string{"2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", "2006-01-02"}

func (m *mapping) time(s string) (time.Time, error) {
	for _, form := range []string{time.RFC3339Nano, "2006-01-02 15:04:05Z07:00"} {
		if t, err := time.Parse(form, s); err == nil {
			return t, nil
		}
	}
	zone := m.zone
	if zone == nil {
		zone = time.UTC
	}
	for _, form := range bare {
		t, err := time.ParseInLocation(form, s, zone)
		switch {
		case err != nil:
		case m.zone == nil:
			return t, fmt.Errorf("the time %q %w: give its zone with --timezone, such as --timezone UTC", s, errZone)
		default:
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("the time %q must be like 2026-03-31T00:00:00Z or 2026-03-31 00:00:00.000", s)
}
