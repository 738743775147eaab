// Package catalog puts catalogue files in force. It compares a file with the
// catalogue in force, says which customers it affects, publishes changed plans and
// add-ons as new versions and, if asked to, migrates subscriptions. It refuses a file
// that would change the meaning of recorded use (S29) or take away what customers
// still need (S31). A file is applied as a whole or not at all.
package catalog

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/catalogfile"
	"github.com/usher-sh/usher/internal/engine"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
)

// Config is what the service needs. All fields are required.
type Config struct {
	DB   *store.DB
	Live *live.Live
}

// Service applies catalogues. Its methods are safe for concurrent use.
type Service struct{ cfg Config }

// New returns a Service. It starts nothing.
func New(cfg Config) *Service { return &Service{cfg} }

// Options say how to apply.
type Options struct {
	DryRun bool // compute everything, change nothing
	// Migrate moves subscriptions with older versions to the newest ones, at once:
	// those of one plan (its key), or with "all" every plan and add-on. "" moves none.
	Migrate string
	// IfMatch is an If-Match header; "" accepts any catalogue.
	IfMatch string
}

// Result is what Apply did, or with DryRun would do.
type Result struct {
	Revision   int64                `json:"revision"` // the revision in which the file came into force; with DryRun the newest
	Hash       string               `json:"hash"`
	Changes    []catalogfile.Change `json:"changes"`
	Plans      map[string]string    `json:"plans"`  // key → newest version: "pro" → "pro@2"
	Addons     map[string]string    `json:"addons"` // likewise
	Impact     []Impact             `json:"impact"`
	Migrated   int                  `json:"migrated"`    // subscriptions
	LeftPinned []string             `json:"left_pinned"` // ids of subscriptions that are pinned and did not migrate, up to 100
	DryRun     bool                 `json:"dry_run,omitempty"`
}

// Impact says which subscriptions a new version of a plan or add-on affects.
type Impact struct {
	Version       string           `json:"version"`       // the new version: "pro@2"
	Subscriptions map[string]int64 `json:"subscriptions"` // how many have an older version, by version
	Default       bool             `json:"default,omitempty"`
	Text          string           `json:"text"`
}

const (
	fileName  = "catalog.yaml" // in the locations of problems
	maxListed = 100            // ids in one list
)

// Validate returns Invalid with all that is wrong with a file.
func (s *Service) Validate(src []byte) error {
	_, err := catalogfile.Parse(fileName, src)
	return err
}

// Apply puts a file in force. A file with the same content as the one in force makes
// no revision. Its errors are Invalid with all that is wrong with the file,
// PreconditionFailed, and InUse with all that the change would break, and for whom.
func (s *Service) Apply(ctx context.Context, env usher.Environment, by usher.By, src []byte, o Options) (Result, error) {
	next, err := catalogfile.Parse(fileName, src)
	if err != nil {
		return Result{}, err
	}
	if o.Migrate != "" && o.Migrate != "all" && next.Plans[o.Migrate] == nil {
		return Result{}, usher.Errorf(usher.Invalid, "migrate: the file has no plan %.80q; name one of its plans, or all", o.Migrate)
	}
	var result Result
	err = s.cfg.Live.Change(ctx, env, "", func() error {
		p, err := s.plan(ctx, env, by, src, next, o)
		if err != nil {
			return err
		}
		if !o.DryRun && !p.nothing {
			if err := p.audit(); err != nil {
				return err
			}
			if p.result.Revision, err = s.cfg.DB.ApplyCatalog(ctx, p.change); err != nil {
				return err
			}
		}
		result = p.result
		return nil
	})
	return result, err
}

// audit fills in the audit record of the change: the catalogue's hash before and after,
// and the difference in words.
func (p *plan) audit() (err error) {
	type catalogue struct {
		Hash     string   `json:"hash"`
		Changes  []string `json:"changes,omitempty"`
		Migrated int      `json:"migrated,omitempty"` // subscriptions
	}
	if p.oldHash != "" {
		if p.change.Note.Before, err = json.Marshal(catalogue{Hash: p.oldHash}); err != nil {
			return err
		}
	}
	after := catalogue{Hash: p.change.Hash, Migrated: p.result.Migrated}
	for _, c := range p.result.Changes {
		after.Changes = append(after.Changes, c.Text)
	}
	p.change.Note.After, err = json.Marshal(after)
	return err
}

// plan is everything about one Apply, computed at one revision.
type plan struct {
	db      *store.DB
	env     usher.Environment
	now     time.Time
	old     *usher.Catalog // nil: none is in force
	oldHash string         // "": none is in force
	next    *usher.Catalog
	plans   []usher.PlanVersion
	addons  []usher.AddonVersion
	book    *engine.Book // of old
	newest  map[string]usher.Ref
	newestA map[string]usher.Ref
	holders []store.Holding

	moved   map[string]usher.Subscription // by id: the migrated subscriptions
	nothing bool                          // the file changes nothing
	change  store.CatalogChange
	result  Result
}

func (s *Service) plan(ctx context.Context, env usher.Environment, by usher.By, src []byte, next *usher.Catalog, o Options) (*plan, error) {
	db := s.cfg.DB
	st, err := db.Environment(ctx, env)
	if err != nil {
		return nil, err
	}
	p := &plan{db: db, env: env, now: s.cfg.Live.Now(env), next: next, newest: map[string]usher.Ref{}, newestA: map[string]usher.Ref{},
		moved: map[string]usher.Subscription{}}
	if !st.Clock.IsZero() {
		p.now = st.Clock
	}
	// Everything below is read at this revision or later. The change carries it as its
	// basis, and the store refuses it (ErrStale) if another change was committed meanwhile.
	row := &store.CatalogRow{}
	if st.CatalogRevision > 0 {
		if row, err = db.CatalogAt(ctx, env, st.CatalogRevision); err != nil {
			return nil, err
		}
		if p.old, err = catalogfile.Parse("stored catalogue", []byte(row.Canonical)); err != nil {
			return nil, err
		}
	}
	p.oldHash = row.Hash
	if err := matches(o.IfMatch, row.Hash); err != nil {
		return nil, err
	}
	if p.plans, err = db.PlanVersions(ctx, env, 0); err == nil {
		p.addons, err = db.AddonVersions(ctx, env, 0)
	}
	if err == nil {
		p.holders, err = db.Holders(ctx, env, p.now)
	}
	if err != nil {
		return nil, err
	}
	p.book = engine.NewBook(cmp.Or(p.old, &usher.Catalog{}), p.plans, p.addons)
	p.change = store.CatalogChange{Env: env, Basis: st.Revision, Source: string(src), Canonical: string(catalogfile.Format(next)),
		Hash: catalogfile.Hash(next),
		Note: store.Note{By: by, Action: "catalog.apply", Object: "catalog", At: p.now}}
	p.result = Result{Revision: st.Revision, Hash: p.change.Hash, Changes: catalogfile.Diff(p.old, next), DryRun: o.DryRun,
		Plans: map[string]string{}, Addons: map[string]string{}, Impact: []Impact{}, LeftPinned: []string{}}
	if p.result.Changes == nil {
		p.result.Changes = []catalogfile.Change{}
	}
	// The order matters: migrate moves subscriptions to the versions that are made here,
	// and refuse looks at what they hold afterwards.
	if err := p.versions(); err != nil {
		return nil, err
	}
	if err := p.migrate(ctx, o.Migrate); err != nil {
		return nil, err
	}
	if p.nothing = row.Hash == p.change.Hash && len(p.change.Migrate) == 0; p.nothing {
		p.result.Revision = row.Revision
		return p, nil
	}
	if err := p.refuse(ctx); err != nil {
		return nil, err
	}
	if err := p.impact(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// matches returns PreconditionFailed unless an If-Match header has the hash of the
// catalogue in force.
func matches(header, hash string) error {
	if header == "" {
		return nil
	}
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimSpace(tag)
		if hash != "" && (tag == "*" || tag == `"`+hash+`"` || tag == hash) {
			return nil
		}
	}
	if hash == "" {
		return usher.Errorf(usher.PreconditionFailed, "If-Match is %.200s, but no catalogue is in force yet", header)
	}
	return usher.Errorf(usher.PreconditionFailed,
		`If-Match is %.200s, but the catalogue in force is "%s", which was applied since; pull it, compare, and try again`, header, hash)
}

// versions makes a new version of each plan and add-on whose resolved form changed
// (S29).
func (p *plan) versions() error {
	last := map[string]*usher.PlanVersion{}
	for i := range p.plans { // by key and version
		last[p.plans[i].Key] = &p.plans[i]
	}
	lastA := map[string]*usher.AddonVersion{}
	for i := range p.addons {
		lastA[p.addons[i].Key] = &p.addons[i]
	}
	for _, key := range slices.Sorted(maps.Keys(p.next.Plans)) {
		resolved := catalogfile.Resolve(p.next, key)
		v := last[key]
		if v == nil {
			v = &usher.PlanVersion{Plan: *resolved, Version: 1}
			p.change.Plans = append(p.change.Plans, *v)
		} else if same, err := equal(&v.Plan, resolved); err != nil {
			return err
		} else if !same {
			v = &usher.PlanVersion{Plan: *resolved, Version: v.Version + 1}
			p.change.Plans = append(p.change.Plans, *v)
		}
		p.newest[key] = v.Ref()
		p.result.Plans[key] = v.Ref().String()
	}
	for _, key := range slices.Sorted(maps.Keys(p.next.Addons)) {
		addon := p.next.Addons[key]
		v := lastA[key]
		if v == nil {
			v = &usher.AddonVersion{Addon: *addon, Version: 1}
			p.change.Addons = append(p.change.Addons, *v)
		} else if same, err := equal(&v.Addon, addon); err != nil {
			return err
		} else if !same {
			v = &usher.AddonVersion{Addon: *addon, Version: v.Version + 1}
			p.change.Addons = append(p.change.Addons, *v)
		}
		p.newestA[key] = v.Ref()
		p.result.Addons[key] = v.Ref().String()
	}
	return nil
}

// equal compares the stored forms of two values, in which nil and empty are the same.
func equal(a, b any) (bool, error) {
	x, err := json.Marshal(a)
	if err != nil {
		return false, err
	}
	y, err := json.Marshal(b)
	return bytes.Equal(x, y), err
}

// Applied is a catalogue that is or was in force.
type Applied struct {
	Revision  int64     `json:"revision"`
	Hash      string    `json:"hash"`
	Actor     string    `json:"actor"`
	AppliedAt time.Time `json:"applied_at"`
}

// Get returns the catalogue that was in force at a revision of the environment, and its
// file as the caller sent it; 0 is the one in force now. It returns NotFound if none was
// applied by then, or if there is no such revision yet.
func (s *Service) Get(ctx context.Context, env usher.Environment, revision int64) (Applied, []byte, error) {
	row, err := s.at(ctx, env, revision)
	if err != nil {
		return Applied{}, nil, err
	}
	return applied(row), []byte(row.Source), nil
}

// Resolved is Get with the catalogue as JSON, in which each plan lists all that it gives.
func (s *Service) Resolved(ctx context.Context, env usher.Environment, revision int64) (Applied, []byte, error) {
	row, err := s.at(ctx, env, revision)
	if err != nil {
		return Applied{}, nil, err
	}
	c, err := catalogfile.Parse("stored catalogue", []byte(row.Canonical))
	if err != nil {
		return Applied{}, nil, err
	}
	text, err := catalogfile.ResolvedJSON(c)
	return applied(row), text, err
}

// Entries returns a section of the catalogue in force, "plans", "features" or "addons",
// by key. Each entry has the fields of the file, with its key; a plan lists all that it
// gives. Plans and add-ons have their newest version. There is none before the first
// apply.
func (s *Service) Entries(env usher.Environment, section string) ([]map[string]any, error) {
	text, err := catalogfile.ResolvedJSON(s.cfg.Live.Catalog(env))
	if err != nil {
		return nil, err
	}
	var file map[string]any
	in := json.NewDecoder(bytes.NewReader(text))
	in.UseNumber() // an amount is never a float
	if err := in.Decode(&file); err != nil {
		return nil, err
	}
	entries, _ := file[section].(map[string]any)
	book := s.cfg.Live.Book(env)
	out := []map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		entry, ok := entries[key].(map[string]any)
		if !ok {
			entry = map[string]any{}
		}
		entry["key"] = key
		if v, ok := book.Newest(key); ok && section == "plans" {
			entry["version"] = v.Ref().String()
		}
		if v, ok := book.NewestAddon(key); ok && section == "addons" {
			entry["version"] = v.Ref().String()
		}
		out = append(out, entry)
	}
	return out, nil
}

func (s *Service) at(ctx context.Context, env usher.Environment, revision int64) (*store.CatalogRow, error) {
	newest, err := s.cfg.DB.Environment(ctx, env)
	if err != nil {
		return nil, err
	}
	if revision > newest.Revision {
		return nil, usher.Errorf(usher.NotFound, "there is no revision %d yet; the newest is %d", revision, newest.Revision)
	}
	if revision == 0 {
		revision = newest.Revision
	}
	row, err := s.cfg.DB.CatalogAt(ctx, env, revision)
	if err == nil && row == nil {
		err = usher.Errorf(usher.NotFound, "no catalogue has been applied yet")
	}
	return row, err
}

func applied(row *store.CatalogRow) Applied {
	return Applied{row.Revision, row.Hash, row.Actor, row.AppliedAt}
}

// Revisions returns up to limit catalogues that were in force, newest first, with
// revisions below before (0: from the newest). next is the before of the next page, 0
// after the last.
func (s *Service) Revisions(ctx context.Context, env usher.Environment, before int64, limit int) (all []Applied, next int64, err error) {
	rows, err := s.cfg.DB.CatalogRevisions(ctx, env, before, limit+1)
	if err != nil {
		return nil, 0, err
	}
	if len(rows) > limit {
		rows, next = rows[:limit], rows[limit-1].Revision
	}
	all = []Applied{}
	for i := range rows {
		all = append(all, applied(&rows[i]))
	}
	return all, next, nil
}
