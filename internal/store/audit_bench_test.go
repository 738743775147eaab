package store

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/usher-sh/usher"
)

// BenchmarkAudit is the cost of a management write with its row, on a long log:
// a key that is made is nothing else.
func BenchmarkAudit(b *testing.B) {
	for _, dialect := range []Dialect{SQLite, Postgres} {
		b.Run(string(dialect), func(b *testing.B) {
			dsn := filepath.Join(b.TempDir(), "usher.db")
			if dialect == Postgres {
				dsn = postgresDSN(b)
			}
			db, err := Open(b.Context(), Config{DSN: dsn})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			n := 0
			for b.Loop() {
				k := usher.APIKey{ID: fmt.Sprintf("k%d", n), Env: env, Hash: []byte("h"), CreatedAt: day(1)}
				if err := db.CreateKey(b.Context(), k, usher.By{Actor: usher.Actor{Kind: "cli"}}, day(1)); err != nil {
					b.Fatal(err)
				}
				n++
			}
		})
	}
}
