package usher

import (
	"bytes"
	"math"
	"strconv"
	"strings"
)

// MaxPrecision is the most digits after the point that a feature may have.
const MaxPrecision = 9

// MaxQuantity is the largest quantity in smallest units (S24).
const MaxQuantity = math.MaxInt64

// ParseQuantity reads a decimal text as a count of smallest units, 10^-precision
// each (S24): ParseQuantity("1.25", 3) is 1250. A sign, an exponent, more digits
// after the point than precision (trailing zeros are free), or a value beyond
// int64 is refused.
func ParseQuantity(text string, precision int) (int64, error) {
	whole, frac, point := strings.Cut(text, ".")
	if whole == "" || point && frac == "" || !digits(whole) || !digits(frac) || len(text) > 64 {
		if strings.HasPrefix(text, "-") {
			return 0, Errorf(Invalid, "must not be negative, got %s", clip(text))
		}
		return 0, Errorf(Invalid, `must be a plain decimal number such as 10 or "1.5", got %s`, clip(text))
	}
	frac = strings.TrimRight(frac, "0")
	if len(frac) > precision {
		if precision == 0 {
			return 0, Errorf(Invalid, "must be a whole number, got %s", text)
		}
		return 0, Errorf(Invalid, "must have at most %s after the point, got %s", CountOf(precision, "digit"), text)
	}
	n, err := strconv.ParseInt(whole+frac+strings.Repeat("0", precision-len(frac)), 10, 64)
	if err != nil {
		return 0, Errorf(Invalid, "is beyond what can be counted (at most %s), got %s", FormatQuantity(MaxQuantity, precision), text)
	}
	return n, nil
}

// FormatQuantity writes n smallest units as decimal text with exactly precision
// digits after the point: FormatQuantity(1250, 3) is "1.250".
func FormatQuantity(n int64, precision int) string {
	return string(appendQuantity(nil, n, precision))
}

// AppendQuantity appends n as JSON: a number where precision is 0, else a
// decimal string.
func AppendQuantity(b []byte, n int64, precision int) []byte {
	if precision == 0 {
		return strconv.AppendInt(b, n, 10)
	}
	b = append(b, '"')
	b = appendQuantity(b, n, precision)
	return append(b, '"')
}

func appendQuantity(b []byte, n int64, precision int) []byte {
	if precision == 0 {
		return strconv.AppendInt(b, n, 10)
	}
	u := uint64(n)
	if n < 0 {
		b = append(b, '-')
		u = -u
	}
	var text [20]byte
	d := strconv.AppendUint(text[:0], u, 10)
	if len(d) <= precision {
		b = append(b, '0', '.')
		for i := len(d); i < precision; i++ {
			b = append(b, '0')
		}
		return append(b, d...)
	}
	k := len(d) - precision
	b = append(append(b, d[:k]...), '.')
	return append(b, d[k:]...)
}

// Quantity is an amount with its precision. In JSON it is a number if Precision is 0,
// otherwise a decimal string.
type Quantity struct {
	Units     int64 // smallest units
	Precision int   // digits after the point, 0 to MaxPrecision
}

// MarshalJSON writes a number or a decimal string.
func (q Quantity) MarshalJSON() ([]byte, error) {
	return AppendQuantity(nil, q.Units, q.Precision), nil
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (q *Quantity) UnmarshalJSON(b []byte) error {
	var r readQuantity
	if err := r.UnmarshalJSON(b); err != nil {
		return err
	}
	q.Units, q.Precision = r.units, r.precision
	return nil
}

// Number is a decimal number kept as its text until the feature's precision is
// known, so that it is never a float (S24). In JSON it is read from a number or
// from a string; null, booleans and everything else are refused. "" means
// absent.
type Number string

// UnmarshalJSON stores the text of a JSON number or string.
func (n *Number) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	if len(b) >= 2 && b[0] == '"' {
		s := string(b[1 : len(b)-1])
		if s == "" || strings.ContainsAny(s, `"\`) {
			return Errorf(Invalid, `must be a decimal number such as 10 or "1.5", got %s`, clip(string(b)))
		}
		*n = Number(s)
		return nil
	}
	if len(b) == 0 || b[0] != '-' && (b[0] < '0' || b[0] > '9') {
		return Errorf(Invalid, `must be a number such as 10 or "1.5", got %s`, clip(string(b)))
	}
	*n = Number(b)
	return nil
}

// MarshalJSON writes the text as a string, so that no reader rounds it.
func (n Number) MarshalJSON() ([]byte, error) { return []byte(strconv.Quote(string(n))), nil }

// Units reads n with ParseQuantity. A plain exponent such as 1e3 is refused.
func (n Number) Units(precision int) (int64, error) { return ParseQuantity(string(n), precision) }

// CountOf returns a whole number with its noun, which is given in the singular: "1 seat",
// "2 seats", "0 entries". The plural has an s, or ies for a y after a consonant.
func CountOf[N int | int64](n N, noun string) string {
	if n != 1 {
		if stem, ok := strings.CutSuffix(noun, "y"); ok && stem != "" && !strings.ContainsAny(stem[len(stem)-1:], "aeiou") {
			noun = stem + "ie"
		}
		noun += "s"
	}
	return strconv.FormatInt(int64(n), 10) + " " + noun
}

func digits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

func clip(s string) string {
	if len(s) > 40 {
		return strconv.Quote(s[:40]) + "…"
	}
	return strconv.Quote(s)
}
