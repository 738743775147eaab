package main

import (
	"fmt"
	"maps"
	"reflect"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/usher-sh/usher"
)

// put creates or replaces the object at path. A PUT replaces the whole object, but
// a flag that was left out must change nothing, so put reads the object first and
// sends what it was, overlaid with in. fields are the names that the PUT takes.
func (a *app) put(path string, in map[string]any, show func(object), fields ...string) error {
	return a.putOver(path, func(c *client) (object, error) {
		_, was, err := c.call(a, "GET", path, nil)
		return was, err
	}, in, show, fields...)
}

// putOver is like put, for an object that get must read in another way. NotFound from
// get means that the object does not exist yet.
func (a *app) putOver(path string, get func(*client) (object, error), in map[string]any, show func(object), fields ...string) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	was, err := get(c)
	if err != nil && usher.ErrorCode(err) != usher.NotFound {
		return err
	}
	all := map[string]any{}
	for _, f := range fields {
		if v, ok := was[f]; ok {
			all[f] = v
		}
	}
	maps.Copy(all, in)
	_, err = a.ask("PUT", path, all, show)
	return err
}

// set adds a text to a request if its flag was given, also if it is empty.
func set(in map[string]any, name string, text *string) {
	if text != nil {
		in[name] = *text
	}
}

// mayBeEmpty are the flags of free text. In every other flag and argument an empty text
// is more likely a script's variable that was not set. To treat it as left out could do
// more than was meant: list all customers instead of one, or grant without an end.
var mayBeEmpty = map[string]bool{"name": true, "title": true, "description": true}

// refuseEmpty returns an error that names every flag and argument that was given
// as an empty text.
func refuseEmpty(c *kong.Context) error {
	var wrongs []string
	for _, p := range c.Path {
		v, name, advice := p.Positional, "", "give a value, or leave it out"
		switch {
		case p.Resolved: // from an environment variable: empty means that it is not set
			continue
		case p.Flag != nil:
			v, name = p.Flag.Value, "--"+p.Flag.Name
			if mayBeEmpty[p.Flag.Name] {
				continue
			}
		case v != nil:
			name, advice = strings.ToUpper(v.Name), v.Help
		default:
			continue
		}
		if emptyText(v.Target) {
			wrongs = append(wrongs, fmt.Sprintf("%s must not be empty: %s", name, advice))
		}
	}
	if wrongs != nil {
		return wrong("%s", strings.Join(wrongs, "\n"))
	}
	return nil
}

// readPath reads the name of a file. Kong's own mapper turns an empty name into the
// working directory; this one leaves it empty.
func readPath(ctx *kong.DecodeContext, target reflect.Value) error {
	var name string
	if err := ctx.Scan.PopValueInto("file", &name); err != nil {
		return err
	}
	if name != "" && name != "-" {
		name = kong.ExpandPath(name)
	}
	target.SetString(name)
	return nil
}

// emptyText reports whether a value is an empty text, a list with an empty text, or a
// map with an empty key. Values of a map are free text.
func emptyText(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer:
		return !v.IsNil() && emptyText(v.Elem())
	case reflect.String:
		return v.Len() == 0
	case reflect.Slice:
		for i := range v.Len() {
			if emptyText(v.Index(i)) {
				return true
			}
		}
		return v.Type().Elem().Kind() == reflect.String && v.Len() == 0
	case reflect.Map:
		for _, k := range v.MapKeys() {
			if emptyText(k) {
				return true
			}
		}
	}
	return false
}
