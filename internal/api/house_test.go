package api

import (
	"net/http"
	"sync"
	"testing"

	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/doors/authzen"
	"github.com/usher-sh/usher/internal/doors/ofrep"
	"github.com/usher-sh/usher/internal/doors/scim"
	"github.com/usher-sh/usher/internal/openapitest"
)

// setup is what every door of a server needs.
type setup struct {
	API     Config
	Door    door.Config
	Origins []string                   // of pages that may call OFREP
	NewID   func(prefix string) string // of SCIM's users and groups; nil is random
	T       testing.TB
}

// server is every door on one handler, as the program wires it.
type server struct {
	*door.Door
	setup    setup
	flags    *ofrep.OFREP
	document func() *openapitest.Document
}

func serve(s setup) *server {
	c := s.API
	d := door.New(s.Door)
	Register(d, c)
	authzen.Register(d, authzen.Config{Live: c.Live, Decide: c.Decide, PublicURL: s.Door.PublicURL})
	flags := ofrep.Register(d, ofrep.Config{Live: c.Live, Decide: c.Decide, Auth: s.Door.Auth, PublicURL: s.Door.PublicURL,
		Origins: s.Origins, Log: s.Door.Log})
	scim.Register(d, scim.Config{Live: c.Live, Decide: c.Decide, Directory: c.Directory, NewID: s.NewID, PublicURL: s.Door.PublicURL})
	return &server{d, s, flags, sync.OnceValue(func() *openapitest.Document { return openapitest.Of(s.T, d) })}
}

// ServeHTTP answers one request. What is sent and answered must be as the
// published OpenAPI document says, whatever the test is about.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, ok := s.setup.T.(*testing.B); ok {
		s.Door.ServeHTTP(w, r)
		return
	}
	s.document().Handler(s.setup.T, s.Door).ServeHTTP(w, r)
}

// again serves the same world with another setup.
func (w *world) again(change func(*setup)) {
	s := w.api.setup
	change(&s)
	w.api = serve(s)
}
