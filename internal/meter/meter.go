// Package meter turns events into quantities: for which features an event counts,
// and how much. It is pure and does not guess: a value that is missing or is not a
// plain number is an error.
package meter

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/usher-sh/usher"
)

// Reading is what one event means for one feature.
type Reading struct {
	Feature     *usher.Feature
	Aggregation usher.Aggregation
	Adds        bool   // count and sum: Amount is added
	Amount      int64  // smallest units; the value of max and last
	Distinct    string // the value of unique
	Dimensions  []Dimension
}

// Dimension is the value of one declared dimension; "" if the event has none.
type Dimension struct{ Path, Value string }

// MaxText is the greatest length of a unique value and of a dimension, in bytes.
// Longer ones are refused and never cut, so that two different values stay different.
const MaxText = 512

// Read returns what an event means for the features whose meters read its type, in
// the order of the features. A feature whose filter does not match is left out. An
// error names the path and what would be right (S17).
func Read(features []*usher.Feature, meters map[string]*usher.Meter, e *usher.Event) ([]Reading, error) {
	if len(features) == 0 {
		return nil, nil
	}
	var data any
	if len(e.Data) > 0 {
		dec := json.NewDecoder(bytes.NewReader(e.Data))
		dec.UseNumber()
		if err := dec.Decode(&data); err != nil {
			return nil, fmt.Errorf("data must be valid JSON: %w", err)
		}
	}
	var out []Reading
	for _, f := range features {
		m := meters[f.Meter]
		if !matches(m, data) {
			continue
		}
		r := Reading{Feature: f, Aggregation: m.Aggregation, Adds: m.Aggregation.Adds()}
		switch m.Aggregation {
		case usher.Count:
			n, err := usher.ParseQuantity("1", f.Precision)
			if err != nil {
				return nil, err
			}
			r.Amount = n
		case usher.Unique:
			s, ok := text(at(data, m.Field))
			if !ok || s == "" {
				return nil, fmt.Errorf("%s must be a string or a number that identifies one %s", m.Field, f.Key)
			}
			if len(s) > MaxText {
				return nil, fmt.Errorf("%s must be at most %d bytes", m.Field, MaxText)
			}
			r.Distinct = s
		default:
			n, err := number(at(data, m.Field), f.Precision)
			if err != nil {
				return nil, fmt.Errorf("%s %w", m.Field, err)
			}
			r.Amount = n
		}
		for _, d := range m.Dimensions {
			s, _ := text(at(data, d))
			if len(s) > MaxText {
				return nil, fmt.Errorf("%s must be at most %d bytes", d, MaxText)
			}
			r.Dimensions = append(r.Dimensions, Dimension{d, s})
		}
		out = append(out, r)
	}
	return out, nil
}

// at returns the value at a path such as "data.usage.tokens" in the event's data, nil
// if there is none.
func at(data any, path string) any {
	_, rest, _ := strings.Cut(path, ".")
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, ".")
		m, ok := data.(map[string]any)
		if !ok {
			return nil
		}
		data = m[name]
	}
	return data
}

func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		if v {
			return "true", true
		}
		return "false", true
	}
	return "", false
}

func number(v any, precision int) (int64, error) {
	var s string
	switch v := v.(type) {
	case nil:
		return 0, usher.Errorf(usher.Invalid, "is missing: it must be a number")
	case json.Number:
		s = v.String()
	case string:
		s = v
	default:
		return 0, usher.Errorf(usher.Invalid, "must be a number")
	}
	return usher.ParseQuantity(s, precision)
}

func matches(m *usher.Meter, data any) bool {
	for path, accepted := range m.Where {
		s, ok := text(at(data, path))
		if !ok || !slices.Contains(accepted, s) {
			return false
		}
	}
	return true
}
