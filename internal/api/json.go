package api

import (
	"github.com/usher-sh/usher/internal/strictjson"
)

// reader reads the bodies of the routes that are not huma's.
type reader struct{ strictjson.Reader }

// err returns Invalid with everything that was wrong, or nil. Call it once, at
// the end of the reading.
func (r *reader) err() error {
	problems := r.End()
	if len(problems) == 0 {
		return nil
	}
	if r.Broken() {
		problems[0].Location = "body"
	}
	return invalids(problems)
}

// checkJSON returns Invalid unless b is one strict JSON value.
func checkJSON(b []byte) error {
	var r reader
	r.Reset(b)
	r.Skip()
	return r.err()
}

func clip(s string) string { return strictjson.Clip(s) }
