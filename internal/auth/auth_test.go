package auth

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/store"
)

// clock is a time that a story moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

type house struct {
	*Service
	db    *store.DB
	clock *clock
	log   *bytes.Buffer
}

func newHouse(t *testing.T) *house {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{DSN: filepath.Join(t.TempDir(), "usher.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &house{db: db, clock: &clock{t: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}, log: new(bytes.Buffer)}
	h.Service = New(Config{DB: db, Now: h.clock.now, Log: slog.New(slog.NewTextHandler(h.log, nil))})
	t.Cleanup(h.Close)
	return h
}

func (h *house) create(t *testing.T, env usher.Environment, role string, expires time.Time) (string, usher.APIKey) {
	t.Helper()
	key, k, err := h.Create(t.Context(), usher.Actor{Kind: "cli"}, env, "a name", role, expires)
	if err != nil {
		t.Fatal(err)
	}
	return key, k
}

// refused wants an Unauthenticated error that says detail.
func refused(t *testing.T, s *Service, header, detail string) {
	t.Helper()
	who, err := s.Authenticate(context.Background(), header)
	env, actor := who.Env, who.Actor
	if usher.ErrorCode(err) != usher.Unauthenticated || !strings.Contains(err.Error(), detail) || env != "" || actor != (usher.Actor{}) {
		t.Errorf("got %q, %v, %v, want no access: %s", env, actor, err, detail)
	}
}

func accepted(t *testing.T, s *Service, key string) {
	t.Helper()
	if _, err := s.Authenticate(context.Background(), "Bearer "+key); err != nil {
		t.Errorf("got %v, want access", err)
	}
}

const generic = "a valid API key is required"

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, env := range usher.Environments {
		for _, role := range Roles {
			key, k, err := h.CreateKey(t.Context(), by(), env, NewKey{Role: role, Customer: "acme"})
			if err != nil {
				t.Fatal(err)
			}
			who, err := h.Authenticate(t.Context(), "bEaReR "+key)
			gotEnv, actor := who.Env, who.Actor
			if want := (usher.Actor{Kind: "key", ID: k.ID, Role: role}); err != nil || gotEnv != env || actor != want {
				t.Errorf("got %q, %v, %v, want %q, %v", gotEnv, actor, err, env, want)
			}
			n, err := ParseKey(key)
			if err != nil || n.Env != env || n.ID != k.ID {
				t.Errorf("got %v, %v", n, err)
			}
			stored, err := h.db.Key(t.Context(), k.ID)
			if err != nil || bytes.Contains(stored.Hash, []byte(n.Secret)) || len(stored.Hash) != 32 {
				t.Errorf("stored %v, %v, want a SHA-256 only", stored, err)
			}
		}
	}
}

func TestMissingMalformedAndUnknownKeysLookTheSame(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	key, k := h.create(t, usher.Production, RoleAdmin, time.Time{})
	foreign, _, err := newKey(usher.Production, time.Now(), nil) // well formed, of another installation
	if err != nil {
		t.Fatal(err)
	}
	// The right id with another secret, and the right key with another environment.
	n, _ := ParseKey(foreign)
	body := keyPrefix + "production_" + k.ID + "_" + n.Secret
	mixed := body + string(checksum(nil, body))
	body = strings.Replace(key[:len(key)-sumLen], "production", "sandbox", 1)
	moved := body + string(checksum(nil, body))
	for _, header := range []string{"", "Bearer", "Bearer ", key, "Basic " + key, "Bearer " + foreign, "Bearer " + mixed, "Bearer " +
		moved, "Bearer " + key + " ", "Bearer " + strings.ToUpper(key),
		"Bearer usk_production__", "Bearer " + strings.Repeat("usk_", 10000)} {
		refused(t, h.Service, header, generic)
	}
	accepted(t, h.Service, key)
}

// TestEveryTypoIsFoundOffline: a checksum tells any one wrong character.
func TestEveryTypoIsFoundOffline(t *testing.T) {
	t.Parallel()
	key, _, err := newKey(usher.Sandbox, time.Now(), bytes.NewReader(bytes.Repeat([]byte{7}, 42)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseKey(key); err != nil {
		t.Fatal(err)
	}
	for i := range key {
		for _, c := range "a2_Z" {
			typo := key[:i] + string(c) + key[i+1:]
			if _, err := ParseKey(typo); typo != key && err == nil {
				t.Errorf("%s was taken for a key", typo)
			} else if err != nil && strings.Contains(err.Error(), typo) {
				t.Error("the error repeats the key")
			}
		}
		if _, err := ParseKey(key[:i]); err == nil {
			t.Errorf("%s was taken for a key", key[:i])
		}
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	key, k := h.create(t, usher.Production, RoleApp, h.clock.now().Add(time.Hour))
	accepted(t, h.Service, key)
	h.clock.pass(time.Hour - time.Microsecond)
	accepted(t, h.Service, key)
	h.clock.pass(time.Microsecond)
	refused(t, h.Service, "Bearer "+key, "expired")
	// Who does not have the secret is not told.
	n := KeyName{Env: usher.Production, ID: k.ID, Secret: strings.Repeat("a", secretLen)}
	body := keyPrefix + string(n.Env) + "_" + n.ID + "_" + n.Secret
	refused(t, h.Service, "Bearer "+body+string(checksum(nil, body)), generic)
}

// TestRevocationIsSeenWithinASecond: on this node at once, on another one
// without being told.
func TestRevocationIsSeenWithinASecond(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	other := New(Config{DB: h.db, Now: h.clock.now})
	t.Cleanup(other.Close)
	key, k := h.create(t, usher.Production, RoleApp, time.Time{})
	accepted(t, h.Service, key)
	accepted(t, other, key)
	if err := h.Revoke(t.Context(), usher.Actor{Kind: "cli"}, k.ID); err != nil {
		t.Fatal(err)
	}
	refused(t, h.Service, "Bearer "+key, "revoked")
	h.clock.pass(maxAge)
	refused(t, other, "Bearer "+key, "revoked")
	if maxAge >= time.Second {
		t.Errorf("what is known is used for %v, want less than a second", maxAge)
	}
	if err := h.Revoke(t.Context(), usher.Actor{Kind: "cli"}, "nobody"); usher.ErrorCode(err) != usher.NotFound {
		t.Errorf("got %v, want not_found", err)
	}
}

// TestKeyMadeElsewhere: a key that was unknown a moment ago is found soon.
func TestKeyMadeElsewhere(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	other := New(Config{DB: h.db, Now: h.clock.now, Random: bytes.NewReader(bytes.Repeat([]byte{9}, 42))})
	t.Cleanup(other.Close)
	key, _, err := newKey(usher.Production, h.clock.now(), bytes.NewReader(bytes.Repeat([]byte{9}, 42)))
	if err != nil {
		t.Fatal(err)
	}
	refused(t, h.Service, "Bearer "+key, generic)
	if _, _, err := other.Create(t.Context(), usher.Actor{Kind: "cli"}, usher.Production, "", RoleRead, time.Time{}); err != nil {
		t.Fatal(err)
	}
	accepted(t, other, key)
	h.clock.pass(maxAge)
	accepted(t, h.Service, key)
}

// TestNoDatabase: what is known holds for a while, what is not known cannot be answered.
func TestNoDatabase(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	key, _ := h.create(t, usher.Production, RoleApp, time.Time{})
	unseen, _ := h.create(t, usher.Production, RoleApp, time.Time{})
	accepted(t, h.Service, key)
	h.Close() // what runs beside the calls
	h.db.Close()
	for range 3 {
		h.clock.pass(maxAge)
		accepted(t, h.Service, key)
	}
	_, err := h.Authenticate(t.Context(), "Bearer "+unseen)
	if usher.ErrorCode(err) == usher.Unauthenticated || err == nil {
		t.Errorf("got %v, want that it cannot be told", err)
	}
	h.clock.pass(outage)
	if _, err := h.Authenticate(t.Context(), "Bearer "+key); usher.ErrorCode(err) != usher.Unavailable {
		t.Errorf("after a long outage: got %v, want unavailable", err)
	}
	n, _ := ParseKey(key)
	if strings.Contains(h.log.String(), n.Secret) {
		t.Error("the secret is in the log")
	}
}

func TestLastUse(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	key, k := h.create(t, usher.Production, RoleApp, time.Time{})
	used := func() time.Time {
		t.Helper()
		h.running.Wait()
		got, err := h.db.Key(t.Context(), k.ID)
		if err != nil {
			t.Fatal(err)
		}
		return got.LastUsedAt
	}
	if got := used(); !got.IsZero() {
		t.Errorf("got %v, want never", got)
	}
	first := h.clock.now()
	accepted(t, h.Service, key)
	if got := used(); !got.Equal(first) {
		t.Errorf("got %v, want %v", got, first)
	}
	h.clock.pass(touchEvery - time.Second)
	accepted(t, h.Service, key)
	if got := used(); !got.Equal(first) {
		t.Errorf("within a minute: got %v, want %v", got, first)
	}
	h.clock.pass(time.Second)
	accepted(t, h.Service, key)
	if got := used(); !got.Equal(h.clock.now()) {
		t.Errorf("got %v, want %v", got, h.clock.now())
	}
	// A use without the secret is none.
	n, _ := ParseKey(key)
	h.clock.pass(time.Hour)
	body := keyPrefix + string(n.Env) + "_" + n.ID + "_" + strings.Repeat("a", secretLen)
	refused(t, h.Service, "Bearer "+body+string(checksum(nil, body)), generic)
	if got := used(); got.Equal(h.clock.now()) {
		t.Error("a wrong secret counts as use")
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for name, c := range map[string]struct {
		env     usher.Environment
		name    string
		role    string
		expires time.Time
	}{
		"environment": {"staging", "", RoleApp, time.Time{}},
		"role":        {usher.Production, "", "root", time.Time{}},
		"name":        {usher.Production, "a\nb", RoleApp, time.Time{}},
		"past":        {usher.Production, "", RoleApp, h.clock.now()},
	} {
		if _, _, err := h.Create(t.Context(), usher.Actor{Kind: "cli"}, c.env, c.name, c.role, c.expires); usher.ErrorCode(err) != usher.Invalid {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
}

// TestManyAtOnce is for the race detector.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	key, k := h.create(t, usher.Production, RoleApp, time.Time{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				h.clock.pass(5 * time.Millisecond)
				accepted(t, h.Service, key)
			}
		})
	}
	wg.Wait()
	if err := h.Revoke(t.Context(), usher.Actor{Kind: "cli"}, k.ID); err != nil {
		t.Fatal(err)
	}
	refused(t, h.Service, "Bearer "+key, "revoked")
}

func BenchmarkAuthenticate(b *testing.B) {
	db, err := store.Open(context.Background(), store.Config{DSN: filepath.Join(b.TempDir(), "usher.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	s := New(Config{DB: db})
	defer s.Close()
	key, _, err := s.Create(context.Background(), usher.Actor{Kind: "cli"}, usher.Production, "", RoleApp, time.Time{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Authenticate(context.Background(), "Bearer "+key); err != nil {
			b.Fatal(err)
		}
	}
}
