// Package catalogfile reads, checks, writes and compares the catalogue file,
// and refuses everything that it does not understand. It applies and stores
// nothing.
package catalogfile

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/usher-sh/usher"
)

// The bounds of a file.
const (
	// MaxSize is the largest file in bytes.
	MaxSize = 4 << 20
	// MaxDepth is how deep maps and lists may nest.
	MaxDepth = 32
	// MaxNodes is how many keys and values a file may hold.
	MaxNodes = 200_000
	// MaxEntries is how many meters, features, plans or add-ons a file may hold, each.
	MaxEntries = 10_000
	// MaxExtends is how many plans one chain of extends may join.
	MaxExtends = 64
	// MaxPermissions is how many permissions a file may hold.
	MaxPermissions = 2000
	// MaxRoles is how many roles a file may hold.
	MaxRoles = 1000
	// MaxPatterns is how many permissions with a * a role may list.
	MaxPatterns = 64
	// MaxIncludes is how many roles a role may include, with what those include.
	MaxIncludes = 64
	// MaxWays is how many different sets of conditions and seats a role may
	// have, counting every way through what it includes.
	MaxWays = 64
	// MaxSeparations is how many rules of separated duties a file may hold.
	MaxSeparations = 100
	// MaxProblems is how many problems one error lists before "… and N more".
	MaxProblems = 100

	maxTitle   = 200  // bytes, of titles, units and enum words
	maxText    = 4096 // bytes, of a config feature's text
	maxParts   = 100  // allowances or caps of one entitlement
	maxPath    = 8    // segments of a meter's path
	fileFormat = "1"  // the version of the format that this package reads
)

// Parse reads a catalogue from YAML or JSON. name is the file's name in the
// locations of problems ("catalog.yaml:12:7"). The error is an Invalid
// *usher.Error that lists every problem, each with what would be right; there
// is no catalogue then. Equal files, whatever their comments, order and
// notation, parse to equal catalogues.
func Parse(name string, src []byte) (*usher.Catalog, error) {
	r := &reader{name: name}
	root := r.read(src)
	if root == nil {
		return nil, r.err()
	}
	p := &parser{reader: r, cat: &usher.Catalog{}}
	p.catalog(root)
	if err := r.err(); err != nil {
		return nil, err
	}
	return p.cat, nil
}

// reader gathers problems while input is read.
type reader struct {
	name     string // the file; "" locates by path, as in "value.limit"
	problems []problem
	more     int // problems beyond MaxProblems
	nodes    int
}

type problem struct {
	line, column int
	usher.Problem
}

// bad adds a problem at n.
func (r *reader) bad(n *node, format string, args ...any) {
	if len(r.problems) >= MaxProblems {
		r.more++
		return
	}
	message := fmt.Sprintf(format, args...)
	if r.name == "" {
		r.problems = append(r.problems, problem{n.line, n.column, usher.Problem{Location: n.path(), Message: message}})
		return
	}
	if path := n.path(); path != "" {
		message = path + ": " + message
	}
	r.badAt(n.line, n.column, message)
}

// badAt adds a problem at a line and a column; 0 locates the whole file.
func (r *reader) badAt(line, column int, message string) {
	location := r.name
	if r.name == "" {
		location = rootName
	} else if line > 0 {
		location = fmt.Sprintf("%s:%d:%d", r.name, line, column)
	}
	r.problems = append(r.problems, problem{line, column, usher.Problem{Location: location, Message: message}})
}

// err returns Invalid with all problems, in the order of the input, or nil.
func (r *reader) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b problem) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.column, b.column))
	})
	count := len(r.problems) + r.more
	noun := "problems"
	if count == 1 {
		noun = "problem"
	}
	e := usher.Errorf(usher.Invalid, "%s has %d %s", cmp.Or(r.name, rootName), count, noun)
	for _, p := range r.problems {
		e.Problems = append(e.Problems, p.Problem)
	}
	if r.more > 0 {
		e.Problems = append(e.Problems, usher.Problem{Location: r.name, Message: fmt.Sprintf("… and %d more", r.more)})
	}
	return e
}
