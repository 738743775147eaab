// Command usher-verify checks a file that `usher audit export` wrote, with a
// public key, on any machine. It needs no database, no server and no network,
// and refuses to take the file's own word for anything.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/usher-sh/usher/internal/audit"
)

// The exit codes.
const (
	exitWhole = 0
	exitFault = 1 // tampered with
	exitUsage = 2 // wrong usage, or the file cannot be read
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, in io.Reader, out, errs io.Writer) int {
	flags := flag.NewFlagSet("usher-verify", flag.ContinueOnError)
	flags.SetOutput(errs)
	flags.Usage = func() {
		fmt.Fprint(errs, "usage: usher-verify --key PUBLIC-KEY [--checkpoint FILE] [--json] EXPORT\n\n"+
			"Checks a file that `usher audit export` wrote; - is standard input. Exit codes: 0 it is whole, 1 it is not, 2 it cannot be read.\n\n")
		flags.PrintDefaults()
	}
	var keys []string
	flags.Func("key", "the public `key` of the log, as you got it from elsewhere: usher audit key, GET /v1/audit/key; may be repeated "+
		"where it was replaced", func(s string) error {
		keys = append(keys, s)
		return audit.CheckKey(s)
	})
	checkpoint := flags.String("checkpoint", "", "a `file` with a checkpoint that you kept: the log must contain it")
	asJSON := flags.Bool("json", false, "print JSON instead of text for people")
	if err := flags.Parse(args); err != nil {
		return exitUsage
	}
	fail := func(format string, args ...any) int {
		fmt.Fprintf(errs, "usher-verify: "+format+"\n", args...)
		return exitUsage
	}
	if flags.NArg() != 1 || len(keys) == 0 {
		flags.Usage()
		return exitUsage
	}
	o := audit.Options{Keys: keys}
	if *checkpoint != "" {
		b, err := os.ReadFile(*checkpoint)
		if err != nil {
			return fail("%s", err)
		}
		o.Kept = string(b)
	}
	if name := flags.Arg(0); name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return fail("%s", err)
		}
		defer f.Close()
		in = f
	}
	r, h, err := audit.VerifyExport(in, o)
	if err != nil {
		return fail("%s", err)
	}
	if *asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	} else {
		err = printReport(out, r, h)
	}
	switch {
	case err != nil:
		return fail("%s", err)
	case r.Total > 0:
		return exitFault
	}
	return exitWhole
}

func printReport(out io.Writer, r *audit.Report, h *audit.Header) error {
	if err := r.Text(out); err != nil {
		return err
	}
	verdict := "the export is whole: every row of the log is in it"
	switch {
	case r.Total > 0:
		verdict = fmt.Sprintf("faults: %d: the export is not what was signed, or not by this key", r.Total)
	case h.Filter != nil:
		b, err := json.Marshal(h.Filter)
		if err != nil {
			return err
		}
		verdict = fmt.Sprintf("the export is whole: its rows are in the log, and the signer says that they are all with %s", b)
	}
	_, err := fmt.Fprintln(out, verdict)
	return err
}
