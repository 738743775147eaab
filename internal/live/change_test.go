package live_test

import (
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// TestChange: a change that another one made stale is computed again, and is
// known on this node when Change returns; any other error ends it at once.
func TestChange(t *testing.T) {
	t.Parallel()
	db, l := open(t, filepath.Join(t.TempDir(), "usher.db"), 0)
	tries := 0
	err := l.Change(t.Context(), usher.Sandbox, "acme", func() error {
		if tries++; tries < 3 {
			return store.ErrStale
		}
		apply(t, db, 1, true)
		return nil
	})
	if err != nil || tries != 3 || l.CatalogRevision(usher.Sandbox) != 1 {
		t.Errorf("got %v after %d tries and catalogue %d, want the catalogue of the third try", err, tries, l.CatalogRevision(usher.Sandbox))
	}
	tries = 0
	err = l.Change(t.Context(), usher.Sandbox, "acme", func() error { tries++; return store.ErrStale })
	if usher.ErrorCode(err) != usher.Unavailable || tries < 2 || tries > 100 {
		t.Errorf("got %v after %d tries, want unavailable after some", err, tries)
	}
	tries = 0
	refused := errors.New("refused")
	if err := l.Change(t.Context(), usher.Sandbox, "acme", func() error { tries++; return refused }); err != refused || tries != 1 {
		t.Errorf("got %v after %d tries, want fn's own error after 1", err, tries)
	}
}

// TestChange_OneAtATime: changes to one customer never overlap in a process.
func TestChange_OneAtATime(t *testing.T) {
	t.Parallel()
	_, l := open(t, filepath.Join(t.TempDir(), "usher.db"), 0)
	var wg sync.WaitGroup
	n := 0 // the race detector and the sum see an overlap
	for range 50 {
		wg.Go(func() {
			if err := l.Change(t.Context(), usher.Sandbox, "acme", func() error { n++; return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n != 50 {
		t.Errorf("got %d changes, want 50", n)
	}
}
