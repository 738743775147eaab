package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/usher-sh/usher"
)

type ingestCmd struct {
	File     []string `arg:"" help:"Files of CloudEvents, one JSON object a line, or of CSV with --map; - is standard input."`
	Map      []string `sep:"none" placeholder:"TARGET=SOURCE,…" help:"How CSV with a header line becomes events, as described above."`
	Timezone string   `help:"Time zone of times in CSV that name none, such as UTC." placeholder:"ZONE"`
	Restart  bool     `help:"Begin at the start of the file again; nothing is counted twice."`
}

// Help describes --map.
func (*ingestCmd) Help() string {
	return `--map makes CSV rows events, for example
  --map 'id={file}-{row},source==import,type==llm.completion,subject=Customer,time=When,data.tokens=Tokens'

A TARGET is id, source, type, subject, time or data.NAME. A SOURCE is one of:

  COLUMN   the value of the column with this name
  =TEXT    always this text
  row      number of the data row, from 1; row%7 is that modulo 7
  line     number of the line in the file
  text with {COLUMN}, {row}, {row%7}, {line} or {file} in it`
}

// The bounds of one request. The server accepts 10,000 events and 8 MiB.
const (
	batchEvents = 1000
	batchBytes  = 4 << 20
)

// maxListed bounds the rejected events that are listed.
const maxListed = 20

// item is one event to be sent: its JSON, or what is wrong with its line.
type item struct {
	event []byte
	line  int64
	wrong string
}

// place is a point between two records of a file, from which sending can go on.
type place struct {
	Offset int64 `json:"offset"` // bytes
	Line   int64 `json:"line"`   // number of the next line, from 1
	Row    int64 `json:"row"`    // data rows before it
}

// records reads the events of a file. next ends with io.EOF; where is the place
// after the item that next returned last.
type records interface {
	next() (item, error)
	where() place
}

// rejected is an event that was not recorded.
type rejected struct {
	File    string `json:"file"`
	Line    int64  `json:"line"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// tally counts accepted, duplicate and rejected events.
type tally struct {
	Accepted   int64      `json:"accepted"`
	Duplicates int64      `json:"duplicates"`
	Unmatched  int64      `json:"unmatched,omitempty"` // of the accepted, those of types that no meter reads
	Rejected   int64      `json:"rejected"`
	First      []rejected `json:"first_rejected,omitempty"`
}

func (t *tally) reject(file string, line int64, code, message string) {
	t.Rejected++
	if len(t.First) < maxListed {
		t.First = append(t.First, rejected{file, line, code, message})
	}
}

func (t *tally) add(o tally) {
	t.Accepted += o.Accepted
	t.Duplicates += o.Duplicates
	t.Unmatched += o.Unmatched
	t.Rejected += o.Rejected
	t.First = append(t.First, o.First...)
	t.First = t.First[:min(len(t.First), maxListed)]
}

func (c *ingestCmd) Run(a *app) error {
	cl, err := a.client()
	if err != nil {
		return err
	}
	mapping, err := parseMapping(c.Map, c.Timezone)
	if err != nil {
		return err
	}
	var total tally
	for _, name := range c.File {
		t, err := c.file(a, cl, name, mapping)
		total.add(t)
		if err != nil {
			return err
		}
	}
	if a.cli.JSON {
		if err := a.printJSON(total); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(a.out, "%d accepted, %s, %d rejected\n", total.Accepted, usher.CountOf(total.Duplicates, "duplicate"), total.Rejected)
		if total.Unmatched > 0 {
			fmt.Fprintf(a.out, "unmatched: no meter reads the type of %s that was accepted; GET /v1/events/unmatched lists the types\n",
				usher.CountOf(total.Unmatched, "event"))
		}
	}
	if total.Rejected == 0 {
		return nil
	}
	e := usher.Errorf(usher.Invalid, "rejected: %s", usher.CountOf(total.Rejected, "event"))
	for _, r := range total.First {
		e.Problems = append(e.Problems, usher.Problem{Location: fmt.Sprintf("%s:%d", r.File, r.Line), Message: r.Code + ": " + r.Message})
	}
	if more := total.Rejected - int64(len(total.First)); more > 0 {
		e.Problems = append(e.Problems, usher.Problem{Message: fmt.Sprintf("… and %d more", more)})
	}
	return e
}

// file sends one file.
func (c *ingestCmd) file(a *app, cl *client, name string, m *mapping) (t tally, err error) {
	var in io.ReadSeeker
	size := int64(-1)
	var side *sidecar
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return t, err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return t, err
		}
		if st.Mode().IsRegular() {
			size, in = st.Size(), f
			if side, err = openSidecar(name, f, size, cl, c); err != nil {
				return t, err
			}
			t = side.Tally
		}
		if in != nil {
			t, err = c.stream(a, cl, name, in, side, size, m, t)
			return t, a.stopped(err, name, side)
		}
		t, err = c.stream(a, cl, name, a.interruptible(f), nil, -1, m, t)
		return t, a.stopped(err, name, nil)
	}
	t, err = c.stream(a, cl, name, a.interruptible(a.in), nil, size, m, t)
	return t, a.stopped(err, name, nil)
}

// stopped returns err, or after Ctrl-C an error that says how to go on. side may be nil.
func (a *app) stopped(err error, name string, side *sidecar) error {
	if err == nil || a.Err() == nil {
		return err
	}
	e := &usher.Error{Code: usher.Unavailable}
	switch {
	case side != nil && side.Place.Offset > 0:
		e.Detail = fmt.Sprintf("stopped after line %d of %s: the same command goes on from there, and nothing is counted twice",
			side.Place.Line-1, name)
	case name == "-":
		e.Detail = "stopped: give the same command the same input from its start; nothing is counted twice"
	default:
		e.Detail = fmt.Sprintf("stopped: the same command sends %s from its start, and nothing is counted twice", name)
	}
	return e
}

// interruptible returns a reader of in, a pipe or a terminal, whose Read ends with Ctrl-C
// even while nothing is written to in.
func (a *app) interruptible(in io.Reader) io.Reader {
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, in)
		w.CloseWithError(err) // nil is the end of the file
	}()
	context.AfterFunc(a, func() { w.CloseWithError(a.Err()) })
	return r
}

func (c *ingestCmd) stream(a *app, cl *client, name string, in io.Reader, side *sidecar, size int64, m *mapping, t tally) (tally, error) {
	start := place{Line: 1}
	if side != nil {
		start = side.Place
	}
	var from records
	var err error
	if m != nil {
		from, err = newCSV(name, in, m, start)
	} else {
		from, err = newLines(in, start)
	}
	if err != nil {
		return t, err
	}
	if start.Offset > 0 {
		fmt.Fprintf(a.err, "%s: continues after line %d; --restart begins at the start\n", name, start.Line-1)
	}
	p := newProgress(a, name, size, start.Offset)
	defer p.end()
	for {
		batch, after, err := gather(from)
		if err != nil {
			return t, err
		}
		if len(batch) == 0 {
			return t, side.done()
		}
		if err := c.send(a, cl, name, batch, &t); err != nil {
			return t, err
		}
		if err := side.save(after, t); err != nil {
			fmt.Fprintf(a.err, "usher: cannot write next to %s how far it was sent, so after a stop it begins at the start "+
				"(nothing is counted twice): %s\n", name, err)
			side = nil
		}
		p.at(after.Offset, len(batch))
	}
}

// gather reads events until a batch is full or the file ends.
func gather(from records) (batch []item, after place, err error) {
	for n := 0; len(batch) < batchEvents && n < batchBytes; {
		it, err := from.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, after, err
		}
		batch = append(batch, it)
		n += len(it.event)
		after = from.where()
	}
	return batch, after, nil
}

// send sends a batch and counts the results. Lines that are not events are rejected
// here, because the server would refuse the whole batch.
func (c *ingestCmd) send(a *app, cl *client, name string, batch []item, t *tally) error {
	var good []item
	for _, it := range batch {
		if it.wrong != "" {
			t.reject(name, it.line, usher.RejectInvalid, it.wrong)
			continue
		}
		good = append(good, it)
	}
	return c.post(a, cl, name, good, t)
}

func (c *ingestCmd) post(a *app, cl *client, name string, good []item, t *tally) error {
	if len(good) == 0 {
		return nil
	}
	var b bytes.Buffer
	for i, it := range good {
		b.WriteByte("[,"[min(i, 1)])
		b.Write(it.event)
	}
	b.WriteByte(']')
	answer, err := patiently(a, cl, b.Bytes())
	var e *usher.Error
	if errors.As(err, &e) && (e.Code == usher.Invalid || e.Code == usher.TooLarge) {
		if len(good) == 1 {
			t.reject(name, good[0].line, string(e.Code), e.Detail)
			return nil
		}
		// One line makes the whole request invalid. Send both halves, until it is alone.
		half := len(good) / 2
		if err := c.post(a, cl, name, good[:half], t); err != nil {
			return err
		}
		return c.post(a, cl, name, good[half:], t)
	}
	if err != nil {
		return err
	}
	var r usher.IngestResult
	if err := json.Unmarshal(answer, &r); err != nil {
		return &usher.Error{Code: usher.Unavailable, Detail: "the answer to a batch of events cannot be read: " + err.Error()}
	}
	t.Accepted += int64(r.Accepted)
	t.Duplicates += int64(r.Duplicates)
	t.Unmatched += int64(r.Unmatched)
	for _, x := range r.Rejected {
		if x.Index >= 0 && x.Index < len(good) {
			t.reject(name, good[x.Index].line, x.Code, x.Message)
		}
	}
	return nil
}

// How long a server that does not accept events is retried.
const (
	tries    = 5 // while it cannot be reached
	patience = 10 * time.Minute
)

// patiently sends a batch until the server accepts it. Sending it again is safe: an
// event counts once.
func patiently(a *app, cl *client, body []byte) ([]byte, error) {
	began := time.Now()
	for failures := 0; ; {
		b, err := cl.send(a, "POST", "/v1/events", "application/cloudevents-batch+json", body)
		var e *usher.Error
		if err == nil || !errors.As(err, &e) || a.Err() != nil {
			return b, err
		}
		wait := e.RetryAfter
		switch e.Code {
		case usher.RateLimited, usher.Unavailable:
			if wait == 0 { // there was no answer: the server was not reached
				failures++
				wait = time.Duration(failures) * 500 * time.Millisecond
			} else {
				failures = 0
			}
		default:
			return nil, err
		}
		if failures >= tries || time.Since(began)+wait > patience {
			return nil, err
		}
		if err := sleep(a, wait); err != nil {
			return nil, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return &usher.Error{Code: usher.Unavailable, Detail: "stopped while it waited for the server"}
	}
}

// sidecar is a file next to a sent file. It says how much of that file was sent.
type sidecar struct {
	name  string
	Head  string `json:"head"`  // SHA-256 of the file's first Bytes
	Bytes int64  `json:"bytes"` // at most 64 KiB
	For   string `json:"for"`   // SHA-256 of server, key and mapping
	Place place  `json:"place"`
	Tally tally  `json:"tally"`
}

const sidecarSuffix = ".usher-progress"

// openSidecar reads how much of a file was sent. If the file has changed, or goes to
// another server or environment, that is nothing.
func openSidecar(name string, f io.ReaderAt, size int64, cl *client, c *ingestCmd) (*sidecar, error) {
	target := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", cl.base, cl.key, c.Map, c.Timezone))
	s := &sidecar{name: name + sidecarSuffix}
	hash := func(n int64) (string, error) {
		h := sha256.New()
		_, err := io.Copy(h, io.NewSectionReader(f, 0, n))
		return hex.EncodeToString(h.Sum(nil)), err
	}
	if b, err := os.ReadFile(s.name); err == nil && !c.Restart {
		var old sidecar
		if json.Unmarshal(b, &old) == nil && old.For == hex.EncodeToString(target[:]) &&
			0 < old.Bytes && old.Bytes <= size && 0 < old.Place.Offset && old.Place.Offset <= size {
			if head, err := hash(old.Bytes); err != nil {
				return nil, err
			} else if head == old.Head {
				old.name = s.name
				return &old, nil
			}
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s.For, s.Bytes, s.Place = hex.EncodeToString(target[:]), min(size, 64<<10), place{Line: 1}
	var err error
	s.Head, err = hash(s.Bytes)
	return s, err
}

func (s *sidecar) save(p place, t tally) error {
	if s == nil {
		return nil
	}
	s.Place, s.Tally = p, t
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return writeFile(s.name, b)
}

func (s *sidecar) done() error {
	if s == nil {
		return nil
	}
	if err := os.Remove(s.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// progress shows how much of a file is sent: as a bar on a terminal, otherwise as a line
// every few seconds.
type progress struct {
	a      *app
	name   string
	bar    *progressbar.ProgressBar
	size   int64
	from   int64
	events int64
	began  time.Time
	said   time.Time
}

const sayEvery = 5 * time.Second

func newProgress(a *app, name string, size, offset int64) *progress {
	now := time.Now()
	p := &progress{a: a, name: name, size: size, from: offset, began: now, said: now}
	if a.tty.err {
		p.bar = progressbar.NewOptions64(size, progressbar.OptionSetWriter(a.err), progressbar.OptionShowBytes(true),
			progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetDescription(name), progressbar.OptionUseANSICodes(a.tty.colour))
		p.bar.Set64(offset)
	}
	return p
}

// at notes that more events, up to an offset, are recorded.
func (p *progress) at(offset int64, events int) {
	p.events += int64(events)
	took := time.Since(p.began)
	rate := float64(p.events) / max(took.Seconds(), 1e-3)
	if p.bar != nil {
		p.bar.Describe(fmt.Sprintf("%s: %s, %.0f/s", p.name, usher.CountOf(p.events, "event"), rate))
		p.bar.Set64(offset)
		return
	}
	if time.Since(p.said) < sayEvery {
		return
	}
	p.said = time.Now()
	left := ""
	if p.size > offset && offset > p.from {
		d := time.Duration(float64(took) * float64(p.size-offset) / float64(offset-p.from))
		left = fmt.Sprintf(", %d%%, %s left", offset*100/p.size, d.Round(time.Second))
	}
	fmt.Fprintf(p.a.err, "%s: %s, %s/s%s\n", p.name, usher.CountOf(p.events, "event"), strconv.FormatFloat(rate, 'f', 0, 64), left)
}

func (p *progress) end() {
	if p.bar != nil {
		p.bar.Finish()
	}
}
