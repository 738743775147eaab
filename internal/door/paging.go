package door

import (
	"encoding/base64"
	"slices"
)

// PathID is the input of a route about one object.
type PathID struct {
	ID string `path:"id"`
}

// ListIn is the input of a list of what belongs to one object.
type ListIn struct {
	ID     string `path:"id"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor" doc:"The next_cursor of the page before"`
}

// PageIn is the input of a list of all objects.
type PageIn struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor string `query:"cursor" doc:"The next_cursor of the page before"`
}

// ListBody is a page of a list.
type ListBody[T any] struct {
	Data       []T    `json:"data" nullable:"false"`
	NextCursor string `json:"next_cursor,omitempty" doc:"Absent on the last page"`
}

// ListOut is the answer of a list.
type ListOut[T any] struct{ Body ListBody[T] }

// Listed returns a page as an answer. next is the id after which the next page begins;
// "": this is the last page.
func Listed[T any](data []T, next string) *ListOut[T] {
	if data == nil {
		data = []T{}
	}
	return &ListOut[T]{ListBody[T]{data, cursorOf(next)}}
}

// cursorOf returns the cursor of the page that begins after an id. Callers must treat
// it as opaque.
func cursorOf(id string) string { return base64.RawURLEncoding.EncodeToString([]byte(id)) }

// Cursor parses a cursor and returns the id after which the page begins.
func Cursor(s string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || !IsText(string(b)) {
		return "", Invalid("query.cursor", "must be the next_cursor of an answer")
	}
	return string(b), nil
}

// Page returns the elements of all after the cursor, at most limit of them.
func Page[T any](all []T, id func(T) string, in *PageIn) (*ListOut[T], error) {
	after, err := Cursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	if after != "" {
		i := slices.IndexFunc(all, func(v T) bool { return id(v) == after })
		if i < 0 {
			return nil, Invalid("query.cursor", "must be the next_cursor of an answer")
		}
		all = all[i+1:]
	}
	next := ""
	if len(all) > in.Limit {
		all = all[:in.Limit]
		next = id(all[in.Limit-1])
	}
	return Listed(all, next), nil
}
