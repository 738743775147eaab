package main

import (
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/calendar"
)

// zoneOf returns the time zone of a customer, in which its instants are shown. It is UTC
// if the customer has none of its own or may not be read: an instant has its offset, so
// it is right in any zone.
func (a *app) zoneOf(customer string) *time.Location {
	if a.cli.JSON { // which shows what the server says
		return time.UTC
	}
	c, err := a.client()
	if err != nil {
		return time.UTC
	}
	_, o, err := c.call(a, "GET", customerPath(customer), nil)
	if err != nil {
		return time.UTC
	}
	return o.zone()
}

// zone returns the time zone of an answer about a customer.
func (o object) zone() *time.Location {
	if name := o.text("timezone"); name != "" {
		if zone, err := calendar.Zone(name); err == nil {
			return zone
		}
	}
	return time.UTC
}

// in returns an answer with its instants in a zone, to the second, for people to read.
// What callers have stored, such as metadata, is as they sent it.
func (o object) in(zone *time.Location) object {
	if o == nil {
		return nil
	}
	out := make(object, len(o))
	for name, v := range o {
		switch v := v.(type) {
		case string:
			out[name] = v
			if t, err := usher.ParseTime(v); err == nil && isInstant(name) {
				out[name] = t.In(zone).Format(time.RFC3339)
			}
		case map[string]any:
			if out[name] = v; name != "metadata" && name != "properties" && name != "group" {
				out[name] = map[string]any(object(v).in(zone))
			}
		case []any:
			list := make([]any, len(v))
			for i := range v {
				if list[i] = v[i]; name != "value" {
					if m, ok := v[i].(map[string]any); ok {
						list[i] = map[string]any(object(m).in(zone))
					}
				}
			}
			out[name] = list
		default:
			out[name] = v
		}
	}
	return out
}

// isInstant reports whether a field of an answer is an instant, if its value is one.
func isInstant(name string) bool {
	switch name {
	case "at", "start", "end", "since", "until", "from", "first", "last", "anchor", "last_seen":
		return true
	}
	return strings.HasSuffix(name, "_at")
}

// allIn returns answers as in does.
func allIn(list []object, zone *time.Location) []object {
	out := make([]object, len(list))
	for i := range list {
		out[i] = list[i].in(zone)
	}
	return out
}
