package main

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"time"

	"github.com/alecthomas/kong"

	"github.com/usher-sh/usher"
)

// when reads the times of flags. There is one form for all of them: an RFC 3339 time, a
// date, which is its first instant in UTC, or a span.
type when struct {
	// now is the present that a span counts from. It is called only if there is a span.
	now func() (time.Time, error)
	// back makes a span count back from now, for commands that look at the past.
	back bool
	// periodEnd returns what period-end is; nil: the flag does not accept it.
	periodEnd func() (time.Time, error)
}

// ahead reads times of which a span lies ahead of the environment's present.
func (a *app) ahead() when { return when{now: a.present} }

// ago reads times of which a span lies before the environment's present.
func (a *app) ago() when { return when{now: a.present, back: true} }

// until reads ends of what a customer gets, which may be period-end.
func (a *app) until(customer string) when {
	return when{now: a.present, periodEnd: func() (time.Time, error) { return a.periodEnd(customer) }}
}

// machine reads times of which a span counts from this machine's time.
func machine(back bool) when {
	return when{now: func() (time.Time, error) { return time.Now(), nil }, back: back}
}

// asked is one flag: its name, its text, which read replaces, and perhaps a word that it
// accepts besides times. A text that is "" was not given and stays.
type asked struct {
	flag string
	text *string
	word string
}

// read replaces the texts of flags by RFC 3339 times. It returns all that is wrong at once.
func (w when) read(flags ...asked) error {
	var wrongs []error
	for _, f := range flags {
		if *f.text == "" || f.word != "" && *f.text == f.word {
			continue
		}
		t, err := w.time(f.flag, *f.text)
		if err != nil {
			wrongs = append(wrongs, err)
			continue
		}
		*f.text = t.UTC().Format(time.RFC3339Nano)
	}
	return errors.Join(wrongs...)
}

func (w when) time(flag, text string) (time.Time, error) {
	if text == "period-end" && w.periodEnd != nil {
		return w.periodEnd()
	}
	if t, err := usher.ParseTime(text); err == nil {
		return t, nil
	}
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		return t, nil
	}
	if span, err := parseSpan(text); err == nil {
		now, err := w.now()
		if w.back {
			span = -span
		}
		return now.Add(span), err
	}
	also := ""
	if w.periodEnd != nil {
		also = ", or period-end"
	}
	return time.Time{}, wrong("%s must be a time such as 2027-01-31T00:00:00Z, a date such as 2027-01-31 or a span such as 14d%s, got %q",
		flag, also, text)
}

// expiry reads the end of a key or an account; "" is the zero time.
func expiry(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	return machine(false).time(flag, text)
}

// spanForm is weeks, then days, then what time.ParseDuration reads; each may be absent.
var spanForm = regexp.MustCompile(`^(?:(\d{1,4})w)?(?:(\d{1,5})d)?([^-+]*)$`)

// parseSpan reads a span such as 90s, 1h30m, 14d or 2w. A day is 24 hours. It is not
// negative.
func parseSpan(text string) (time.Duration, error) {
	bad := fmt.Errorf("must be a span such as 90s, 24h, 14d or 2w, got %q", text)
	m := spanForm.FindStringSubmatch(text)
	if m == nil || text == "" {
		return 0, bad
	}
	hours := 0
	for i, of := range []int{7 * 24, 24} {
		if m[i+1] != "" {
			n, err := strconv.Atoi(m[i+1])
			if err != nil {
				return 0, bad
			}
			hours += n * of
		}
	}
	span := time.Duration(hours) * time.Hour
	if m[3] != "" {
		rest, err := time.ParseDuration(m[3])
		if err != nil || span+rest < span {
			return 0, bad
		}
		span += rest
	}
	return span, nil
}

// readSpan replaces the text of a flag by a span as the server reads it; "" stays.
func readSpan(flag string, text *string) error {
	if *text == "" {
		return nil
	}
	span, err := parseSpan(*text)
	if err != nil {
		return wrong("%s %s", flag, err)
	}
	*text = span.String()
	return nil
}

// spans makes kong read flags of type time.Duration as parseSpan does.
var spans = kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(func(ctx *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := ctx.Scan.PopValueInto("span", &text); err != nil {
		return err
	}
	span, err := parseSpan(text)
	if err == nil {
		target.SetInt(int64(span))
	}
	return err
}))

// periodEnd returns the end of a customer's present period. It is an error if the customer
// has none, or several that end at different times.
func (a *app) periodEnd(customer string) (time.Time, error) {
	cl, err := a.client()
	if err != nil {
		return time.Time{}, err
	}
	all, err := a.pages(cl, customerPath(customer)+"/subscriptions", most)
	if err != nil {
		return time.Time{}, err
	}
	end := ""
	for _, s := range running(all) {
		switch e := s.object("current_period").text("end"); {
		case e == "" || e == end:
		case end != "":
			return time.Time{}, wrong("period-end is ambiguous: customer %q has periods that end at %s and at %s", customer, end, e)
		default:
			end = e
		}
	}
	if end == "" {
		return time.Time{}, wrong("customer %q has no subscription whose period ends: give a time instead of period-end", customer)
	}
	return usher.ParseTime(end)
}

// running returns the subscriptions that are not over.
func running(subscriptions []object) (all []object) {
	for _, s := range subscriptions {
		switch usher.Status(s.text("status")) {
		case usher.Ended, usher.Canceled:
		default:
			all = append(all, s)
		}
	}
	return all
}
