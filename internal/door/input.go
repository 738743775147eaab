package door

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// When parses an optional time; "" is nil.
func When(location, s string) (*time.Time, error) {
	if s == "" {
		return nil, nil
	}
	t, err := usher.ParseTime(s)
	if err != nil {
		return nil, At(location, err)
	}
	return &t, nil
}

// CheckIDs returns Invalid if one of a path's ids is not a valid id.
func CheckIDs(pairs ...string) error {
	var wrong []usher.Problem
	for i := 0; i < len(pairs); i += 2 {
		if err := usher.CheckID("it", pairs[i+1]); err != nil {
			wrong = append(wrong, usher.Problem{Location: "path." + pairs[i], Message: strings.TrimPrefix(err.Error(), "it ")})
		}
	}
	if len(wrong) > 0 {
		return Invalids(wrong)
	}
	return nil
}

// Exactly decodes JSON so that numbers keep all their digits (json.Number).
func Exactly(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return Invalid("body", "%s", err)
	}
	return nil
}

func ClipName(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}

// Parameters reads a query string. It refuses parameters that are not in known, that
// are given twice, and that are empty.
func Parameters(r *http.Request, known ...string) (map[string]string, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, usher.Errorf(usher.Invalid, "the query string is malformed")
	}
	got := make(map[string]string, len(values))
	var wrong []usher.Problem
	for _, name := range known {
		list, ok := values[name]
		delete(values, name)
		switch {
		case len(list) > 1:
			wrong = append(wrong, usher.Problem{Location: "query." + name, Message: "must be given once"})
		case ok && list[0] == "" && name == "cursor": // the start of a list
		case ok && list[0] == "":
			wrong = append(wrong, usher.Problem{Location: "query." + name, Message: "must not be empty"})
		case ok:
			got[name] = list[0]
		}
	}
	message := "unknown parameter; known parameters: " + strings.Join(known, ", ")
	if len(known) == 0 {
		message = "unknown parameter; this call takes none"
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		wrong = append(wrong, usher.Problem{Location: "query." + ClipName(name), Message: message})
	}
	if len(wrong) > 0 {
		return nil, Invalids(wrong)
	}
	return got, nil
}

// Marshal is json.Marshal without the escaping of <, > and &.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// AppendText appends a JSON string.
func AppendText(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] > 0x7e || s[i] == '"' || s[i] == '\\' {
			text, err := Marshal(s)
			if err != nil { // it cannot fail: every string can be encoded
				return append(b, '"', '"')
			}
			return append(b, text...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
