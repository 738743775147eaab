// Package directory makes every change to who a customer's people are and what
// they may do: members, groups, custom roles, assignments and resources. It
// refuses whatever would give somebody more than the rules allow; it answers no
// question about access (decide does).
package directory

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
)

// The bounds of a directory.
const (
	// MaxProperties is the largest properties of one member, group or resource,
	// in bytes of JSON.
	MaxProperties = 64 << 10
	// MaxDepth is how deep properties may nest.
	MaxDepth = 16
	// MaxTitle and MaxReason are in bytes.
	MaxTitle  = 1000
	MaxReason = 500
	// MaxItems is how many things one change may hold.
	MaxItems = 10_000
	// MaxCustomRoles is how many roles of its own a customer may have.
	MaxCustomRoles = 1000
	// MaxRoleItems bounds the permissions, and the includes, of a custom role.
	MaxRoleItems = 1000
)

// Config is what the room works with.
type Config struct {
	DB   *store.DB
	Live *live.Live
	// Direct applies a change together with what it does to seats (A08): the
	// writer of use does.
	Direct func(ctx context.Context, c *store.DirectoryChange, seats func(store.Directory) (store.SeatNeeds, error)) (int64, error)
}

// Service changes directories. Its methods are safe for concurrent use.
type Service struct {
	cfg   Config
	seed  maphash.Seed
	locks [64]sync.Mutex // by customer: this process's own changes do not race
}

// New makes the service. It starts nothing.
func New(cfg Config) *Service { return &Service{cfg: cfg, seed: maphash.MakeSeed()} }

// Meta says who makes a change and why.
type Meta struct {
	Actor     usher.Actor
	RequestID string
	Reason    string
	Action    string // "member.put", "scim.user.create"
	Object    string // the id of what is changed; "" is the customer's
	// Answer is stored with the change (S13); nil: no key was given. A key that
	// has an answer already makes Apply return store.ErrKeyTaken.
	Answer *store.StoredAnswer
}

// Change is one change of a directory: all of it or none. Each of Members,
// Groups, Roles, Assign and Resources becomes what it says, new or not; what is
// dropped and was not there does not matter.
type Change struct {
	Members       []usher.Member
	DropMembers   []string
	Groups        []usher.Group
	DropGroups    []string
	Join, Leave   []usher.Membership
	Roles         []usher.Role // the customer's own
	DropRoles     []string
	Assign        []usher.Assignment // ids are made here
	Unassign      []string           // ids
	Resources     []usher.Resource
	DropResources []usher.Resource
	// Basis is the revision of the directory that the change was computed from:
	// where it has another, Apply returns store.ErrStale. nil: no matter.
	Basis *int64
	// By is the member on whose behalf it is done, who cannot give what it does
	// not hold itself (A05), be it by a role or by a group that has one, and gives
	// itself nothing; "": the caller's own doing.
	By string
	// Merge completes the change by what is there, which d reads; nil: it is whole.
	// It is called anew, on the change as it was given, where another change came
	// between, so that what it keeps is never older than what it replaces. Its
	// error is returned as it is.
	Merge func(d store.Directory, c *Change) error
}

// attempts is how often a change is computed anew because another came between.
const attempts = 10

// Read reads a customer's directory as it is committed.
func (s *Service) Read(env usher.Environment, customer string) store.Directory {
	return s.cfg.DB.Directory(env, customer)
}

// AssignmentID is the id of an assignment: one for each holder, role, resource
// and source, so that the same again is the same.
func (s *Service) AssignmentID(a usher.Assignment) string { return assignmentID(&a) }

var lower = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

func assignmentID(a *usher.Assignment) string {
	b, _ := json.Marshal([]any{a.Holder.Group, a.Holder.ID, a.Role, a.ResourceType, a.ResourceID, a.Source}) // of text and flags: it cannot fail
	sum := sha256.Sum256(b)
	return "asg_" + lower.EncodeToString(sum[:15])
}

// Apply makes a change and returns the revision that has it. It returns NotFound
// where the customer is unknown, Invalid with all that is wrong with the change,
// Refused where a rule forbids it (a cycle, a ceiling, separated duties, no free
// seat), InUse for a role that is dropped while somebody holds it, and
// store.ErrStale where there is a Basis that is no longer so.
func (s *Service) Apply(ctx context.Context, env usher.Environment, m Meta, customer string, c Change) (revision int64, err error) {
	lock := &s.locks[maphash.String(s.seed, string(env)+"/"+customer)%uint64(len(s.locks))]
	lock.Lock()
	defer lock.Unlock()
	for range attempts {
		whole := c
		w, err := s.work(ctx, env, m, customer, &whole)
		if err != nil {
			return 0, err
		}
		if w.seats {
			revision, err = s.cfg.Direct(ctx, &w.change, w.wanted)
		} else {
			revision, err = s.cfg.DB.ChangeDirectory(ctx, &w.change)
		}
		if errors.Is(err, store.ErrStale) {
			if err := s.cfg.Live.Refresh(ctx, env); err != nil {
				return 0, err
			}
			continue
		} else if err != nil {
			return 0, err
		}
		// It is committed, whether the caller still waits or not.
		return revision, s.cfg.Live.Refresh(context.WithoutCancel(ctx), env)
	}
	return 0, usher.Errorf(usher.Unavailable, "too many changes at once to the same customer's people; nothing was changed, try again")
}

// work is one attempt at a change.
type work struct {
	ctx     context.Context
	s       *Service
	env     usher.Environment
	c       *Change
	now     time.Time
	book    *access.Book
	before  store.Directory
	roles   *access.Roles // as they will be
	change  store.DirectoryChange
	seats   bool            // seats may be taken or freed
	splits  bool            // duties may be separated
	members []string        // that the change touches, as the directory is before it
	needs   store.SeatNeeds // what it does to seats
	// Where it is done on a member's behalf: what that member may hand on, and
	// when each assignment that it has, itself or through groups, is in force.
	has map[string]bool
	own map[string]span
}

// span is from when until when an assignment is in force; no until: for good.
type span struct {
	from  time.Time
	until time.Time
}

func spanOf(a *usher.Assignment) span {
	s := span{from: a.From}
	if a.Until != nil {
		s.until = *a.Until
	}
	return s
}

// within reports whether s is in force at no instant at which t is not.
func (s span) within(t span) bool {
	return !s.from.Before(t.from) && (t.until.IsZero() || !s.until.IsZero() && !s.until.After(t.until))
}

func (s *Service) work(ctx context.Context, env usher.Environment, m Meta, customer string, c *Change) (*work, error) {
	w := &work{ctx: ctx, s: s, env: env, c: c, now: s.cfg.Live.Now(env), book: s.cfg.Live.Access(env), before: s.Read(env, customer)}
	basis, err := w.before.Revision(ctx)
	if err != nil {
		return nil, err
	}
	if c.Basis != nil && basis != *c.Basis {
		return nil, store.ErrStale
	}
	if c.Merge != nil {
		if err := c.Merge(w.before, c); err != nil {
			return nil, err
		}
	}
	w.change = store.DirectoryChange{Env: env, Customer: customer, Basis: basis, Answer: m.Answer,
		Meta: store.Meta{Actor: m.Actor.String(), Action: m.Action, Object: m.Object, RequestID: m.RequestID, Reason: m.Reason, At: w.now}}
	if w.change.Meta.Object == "" {
		w.change.Meta.Object = customer
	}
	if w.change.Answer != nil {
		a := *m.Answer
		a.Customer, a.At = customer, w.now
		w.change.Answer = &a
	}
	if err := w.normal(); err != nil {
		return nil, err
	}
	old, err := w.before.Roles(ctx)
	if err != nil {
		return nil, err
	}
	if err := w.custom(old); err != nil {
		return nil, err
	}
	if err := w.given(m); err != nil {
		return nil, err
	}
	if err := w.touched(old); err != nil {
		return nil, err
	}
	w.change.Meta.After = w.summary()
	w.change.Check = w.check
	return w, nil
}

// problems gathers what is wrong, so that all is told at once.
type problems []usher.Problem

func (p *problems) add(location, format string, args ...any) {
	if len(*p) < 100 {
		*p = append(*p, usher.Problem{Location: location, Message: fmt.Sprintf(format, args...)})
	}
}

func (p *problems) id(location, what, id string) {
	if err := usher.CheckID(what, id); err != nil {
		p.add(location, "%s", err)
	}
}

func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	words := p[0].Location + ": " + p[0].Message
	if len(p) > 1 {
		words = fmt.Sprintf("the request has %d problems: %s", len(p), words)
	}
	return &usher.Error{Code: usher.Invalid, Detail: words, Problems: p}
}

// normal checks what can be checked without the database, and fills in what was
// left out.
func (w *work) normal() error {
	c, d := w.c, &w.change
	var p problems
	n := len(c.Members) + len(c.DropMembers) + len(c.Groups) + len(c.DropGroups) + len(c.Join) + len(c.Leave) + len(c.Roles) + len(c.DropRoles) +
		len(c.Assign) + len(c.Unassign) + len(c.Resources) + len(c.DropResources)
	if n > MaxItems {
		p.add("body", "may hold at most %d things, this holds %d", MaxItems, n)
		return p.err()
	}
	place := func(list string, i int, name string) string { return fmt.Sprintf("%s[%d].%s", list, i, name) }
	seen := map[string]bool{}
	once := func(location, key string) {
		if seen[key] {
			p.add(location, "is given twice")
		}
		seen[key] = true
	}
	for i, m := range c.Members {
		p.id(place("members", i, "id"), "a member's id", m.ID)
		once(place("members", i, "id"), "m"+m.ID)
		if m.Type == "" {
			m.Type = usher.DefaultMemberType
		}
		p.id(place("members", i, "type"), "a member's type", m.Type)
		p.properties(place("members", i, "properties"), m.Properties)
		if m.CreatedAt.IsZero() {
			m.CreatedAt = w.now
		}
		d.Members = append(d.Members, m)
	}
	for i, g := range c.Groups {
		p.id(place("groups", i, "id"), "a group's id", g.ID)
		once(place("groups", i, "id"), "g"+g.ID)
		p.text(place("groups", i, "title"), g.Title, MaxTitle)
		p.properties(place("groups", i, "properties"), g.Properties)
		if g.CreatedAt.IsZero() {
			g.CreatedAt = w.now
		}
		d.Groups = append(d.Groups, g)
	}
	for i, m := range c.Join {
		p.id(place("join", i, "group"), "a group's id", m.Group)
		p.id(place("join", i, "id"), "an id", m.Holder.ID)
		if key := fmt.Sprintf("j%q%v%q", m.Group, m.Holder.Group, m.Holder.ID); !seen[key] { // the same twice is the same
			seen[key] = true
			d.Join = append(d.Join, m)
		}
	}
	for i, a := range c.Assign {
		p.id(place("assignments", i, "holder"), "a member's or group's id", a.Holder.ID)
		if a.ResourceID != "" && a.ResourceType == "" {
			p.add(place("assignments", i, "resource_type"), "must be given with resource_id")
		}
		if a.ResourceType != "" {
			p.id(place("assignments", i, "resource_type"), "a resource's type", a.ResourceType)
		}
		if a.ResourceID != "" {
			p.id(place("assignments", i, "resource_id"), "a resource's id", a.ResourceID)
		}
		a.From = a.From.UTC().Truncate(time.Microsecond)
		if a.From.IsZero() {
			a.From = w.now
		}
		if a.Until != nil {
			until := a.Until.UTC().Truncate(time.Microsecond)
			a.Until = &until
			if !until.After(a.From) {
				p.add(place("assignments", i, "until"), "must be after from (%s)", a.From.Format(time.RFC3339Nano))
			} else if !until.After(w.now) {
				p.add(place("assignments", i, "until"), "must be later than now (%s)", w.now.Format(time.RFC3339Nano))
			}
		}
		p.text(place("assignments", i, "reason"), a.Reason, MaxReason)
		if a.Source == "" {
			a.Source = usher.SourceManual
		}
		a.ID = assignmentID(&a)
		once(place("assignments", i, "role"), "a"+a.ID)
		d.Assignments = append(d.Assignments, a)
	}
	for i, r := range c.Resources {
		p.id(place("resources", i, "type"), "a resource's type", r.Type)
		p.id(place("resources", i, "id"), "a resource's id", r.ID)
		once(place("resources", i, "id"), fmt.Sprintf("r%q%q", r.Type, r.ID))
		p.properties(place("resources", i, "properties"), r.Properties)
		if r.CreatedAt.IsZero() {
			r.CreatedAt = w.now
		}
		d.Resources = append(d.Resources, r)
	}
	for i, m := range c.Leave {
		p.id(place("leave", i, "group"), "a group's id", m.Group)
		p.id(place("leave", i, "id"), "an id", m.Holder.ID)
	}
	for i, r := range c.DropResources {
		p.id(place("drop_resources", i, "type"), "a resource's type", r.Type)
		p.id(place("drop_resources", i, "id"), "a resource's id", r.ID)
	}
	for _, l := range []struct {
		name, what string
		ids        []string
	}{{"drop_members", "a member's id", c.DropMembers}, {"drop_groups", "a group's id", c.DropGroups}, {"drop_roles", "a role's key", c.DropRoles}, {"unassign", "an assignment's id", c.Unassign}} {
		for i, id := range l.ids {
			p.id(fmt.Sprintf("%s[%d]", l.name, i), l.what, id)
		}
	}
	if c.By != "" {
		p.id("by", "a member's id", c.By)
	}
	d.DropMembers, d.DropGroups, d.Leave, d.DropRoles, d.DropAssignments, d.DropResources = c.DropMembers, c.DropGroups, c.Leave, c.DropRoles, c.Unassign, c.DropResources
	return p.err()
}

func (p *problems) text(location, s string, most int) {
	if len(s) > most {
		p.add(location, "must be at most %d bytes, this is %d", most, len(s))
	} else if s != "" {
		if err := usher.CheckID("it", s[:min(len(s), 255)]); err != nil && len(s) <= 255 {
			p.add(location, "%s", err)
		}
	}
}

func (p *problems) properties(location string, v map[string]any) {
	if v == nil {
		return
	}
	if d := depth(v); d > MaxDepth {
		p.add(location, "may nest at most %d deep", MaxDepth)
		return
	}
	if b, err := json.Marshal(v); err != nil {
		p.add(location, "must be JSON values")
	} else if len(b) > MaxProperties {
		p.add(location, "may be at most %d bytes of JSON, these are %d", MaxProperties, len(b))
	}
}

func depth(v any) int {
	most := 0
	switch v := v.(type) {
	case map[string]any:
		for _, x := range v {
			most = max(most, depth(x))
		}
	case []any:
		for _, x := range v {
			most = max(most, depth(x))
		}
	default:
		return 0
	}
	return most + 1
}

// custom checks the customer's own roles as they will be (A05).
func (w *work) custom(old []usher.Role) error {
	defs := map[string]*usher.Role{}
	for i := range old {
		defs[old[i].Key] = &old[i]
	}
	for _, key := range w.c.DropRoles {
		delete(defs, key)
	}
	var p problems
	ceiling, allowed := w.book.Ceiling()
	for i := range w.c.Roles {
		r := w.c.Roles[i]
		where := func(name string) string { return fmt.Sprintf("roles[%d].%s", i, name) }
		r.Permissions, r.Includes = sorted(r.Permissions), sorted(r.Includes)
		switch {
		case !allowed:
			return usher.Errorf(usher.Refused, "the catalogue lets customers make no roles of their own: custom_roles.ceiling would name the most that they may hold")
		case !usher.ValidKey(r.Key):
			p.add(where("key"), "must be 1 to %d of a-z 0-9 . _ - and begin with a letter or digit, got %.80q", usher.MaxKey, r.Key)
		case w.book.HasRole(r.Key):
			return usher.Errorf(usher.Refused, "the role %q is the catalogue's: a customer's own role must have another key", r.Key)
		}
		p.text(where("title"), r.Title, MaxTitle)
		if r.Seat != "" || r.When != "" {
			p.add(where("when"), "a customer's own role has neither seat nor condition: they come with what it includes")
		}
		if len(r.Permissions) > MaxRoleItems || len(r.Includes) > MaxRoleItems {
			p.add(where("permissions"), "may be at most %d, and so may includes", MaxRoleItems)
			continue
		}
		for _, perm := range r.Permissions {
			switch {
			case !usher.ValidPattern(perm):
				p.add(where("permissions"), `%.80q is no permission: a key, or a key of which whole segments are "*" or the last is "**"`, perm)
			case !usher.IsPattern(perm) && w.book.Permission(perm) == nil:
				p.add(where("permissions"), "the catalogue has no permission %q", perm)
			}
		}
		defs[r.Key] = &r
		w.change.Roles = append(w.change.Roles, r)
	}
	if len(defs) > MaxCustomRoles {
		p.add("roles", "may be at most %d of one customer", MaxCustomRoles)
	}
	all := make([]usher.Role, 0, len(defs))
	for _, key := range slices.Sorted(maps.Keys(defs)) {
		all = append(all, *defs[key])
	}
	for i := range w.change.Roles {
		for _, in := range w.change.Roles[i].Includes {
			if defs[in] == nil && !w.book.HasRole(in) {
				p.add(fmt.Sprintf("roles[%d].includes", i), "there is no role %.80q", in)
			}
		}
	}
	if err := p.err(); err != nil {
		return err
	}
	for i := range w.change.Roles {
		if path := cycle(defs, w.change.Roles[i].Key); path != nil {
			return usher.Errorf(usher.Refused, "the roles include each other in a circle: %s", strings.Join(path, " → "))
		}
	}
	w.roles = w.book.Customer(all)
	for i := range w.change.Roles {
		r := &w.change.Roles[i]
		if beyond := without(w.roles.Asked(r.Permissions, r.Includes), ceiling); len(beyond) > 0 {
			return usher.Errorf(usher.Refused, "the role %q would give more than the ceiling of customers' own roles: %s", r.Key, few(beyond))
		}
		if rule, one, other := w.roles.Separated([]string{r.Key}); rule != nil {
			return usher.Errorf(usher.Refused, "the role %q would join %q and %q, which the rule %q keeps apart", r.Key, one, other, rule.Key)
		}
	}
	for _, key := range w.c.DropRoles {
		for _, r := range all {
			if slices.Contains(r.Includes, key) {
				return usher.Errorf(usher.InUse, "the role %q is included by %q: change that first", key, r.Key)
			}
		}
	}
	return nil
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

// cycle is a path of includes from a role back to itself; nil is none.
func cycle(defs map[string]*usher.Role, start string) []string {
	done := map[string]bool{}
	var walk func(key string, path []string) []string
	walk = func(key string, path []string) []string {
		if key == start && len(path) > 0 {
			return append(path, key)
		}
		if done[key] || defs[key] == nil {
			return nil
		}
		done[key] = true
		for _, in := range defs[key].Includes {
			if found := walk(in, append(slices.Clone(path), key)); found != nil {
				return found
			}
		}
		return nil
	}
	return walk(start, nil)
}

// without is what of all is not among some.
func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(some, s) })
}

func few(list []string) string {
	if len(list) > 5 {
		return strings.Join(list[:5], ", ") + fmt.Sprintf(" and %d more", len(list)-5)
	}
	return strings.Join(list, ", ")
}

// given checks that whoever gives has what it gives (A05), that roles exist, and
// that nobody gives to itself on its own behalf (A12).
func (w *work) given(m Meta) error {
	var p problems
	for i := range w.change.Assignments {
		a := &w.change.Assignments[i]
		if !w.roles.Has(a.Role) {
			p.add(fmt.Sprintf("assignments[%d].role", i), "there is no role %.80q", a.Role)
		}
		if a.GrantedBy == "" {
			a.GrantedBy = m.Actor.String()
			if w.c.By != "" {
				a.GrantedBy = "member:" + w.c.By
			}
		}
	}
	if err := p.err(); err != nil {
		return err
	}
	if w.c.By == "" {
		return nil
	}
	giver, err := w.s.cfg.Live.Member(w.ctx, w.env, w.change.Customer, w.c.By, w.now)
	if err != nil {
		return err
	}
	if !giver.Active() {
		return usher.Errorf(usher.Refused, "the member %q, on whose behalf this is done, is unknown or not active", w.c.By)
	}
	w.has, w.own = giver.Holds(w.now), map[string]span{}
	facts, err := w.before.Facts(w.ctx, []string{w.c.By}, w.now, 0)
	if err != nil {
		return err
	}
	for _, a := range facts[w.c.By].Assignments {
		w.own[a.ID] = spanOf(&a)
	}
	for i := range w.change.Roles {
		r := &w.change.Roles[i]
		if beyond := w.lacks(w.roles.Asked(r.Permissions, r.Includes)); len(beyond) > 0 {
			return usher.Errorf(usher.Refused, "the role %q would give what %q does not hold: %s", r.Key, w.c.By, few(beyond))
		}
	}
	for i := range w.change.Assignments {
		a := &w.change.Assignments[i]
		if !a.Holder.Group && a.Holder.ID == w.c.By {
			return usher.Errorf(usher.Refused, "%q cannot give itself a role", w.c.By)
		}
		if beyond := w.lacks(w.roles.Gives(a.Role)); len(beyond) > 0 {
			return usher.Errorf(usher.Refused, "%q cannot give the role %q: it does not hold %s itself", w.c.By, a.Role, few(beyond))
		}
	}
	return nil
}

// lacks is what of some permissions the member on whose behalf it is done cannot
// hand on.
func (w *work) lacks(permissions []string) []string {
	return slices.DeleteFunc(slices.Clone(permissions), func(key string) bool { return w.has[key] })
}

// joined checks, with the directory as it will be, that a member on whose behalf
// somebody is put into groups holds what the groups give, and that none of the
// change gives it a role itself (A05, A12).
func (w *work) joined(d store.Directory) error {
	if w.c.By == "" {
		return nil
	}
	facts, err := d.Facts(w.ctx, []string{w.c.By}, w.now, 0)
	if err != nil {
		return err
	}
	mine := facts[w.c.By].Assignments
	for i := range mine {
		a := &mine[i]
		if was, ok := w.own[a.ID]; !ok || !spanOf(a).within(was) {
			return usher.Errorf(usher.Refused, "%q cannot give itself the role %q, also not through a group", w.c.By, a.Role)
		}
	}
	seen := map[string]bool{}
	for _, m := range w.change.Join {
		if seen[m.Group] {
			continue
		}
		seen[m.Group] = true
		above, err := d.Above(w.ctx, m.Group)
		if err != nil {
			return err
		}
		for _, group := range append(above, m.Group) {
			held, err := d.Assignments(w.ctx, store.AssignmentFilter{Holder: &usher.Holder{Group: true, ID: group}}, "", 1<<30)
			if err != nil {
				return err
			}
			for i := range held {
				a := &held[i]
				if a.Until != nil && !a.Until.After(w.now) {
					continue
				}
				if beyond := w.lacks(w.roles.Gives(a.Role)); len(beyond) > 0 {
					return usher.Errorf(usher.Refused, "%q cannot put anybody into the group %q, which has the role %q: it does not hold %s itself", w.c.By, m.Group, a.Role, few(beyond))
				}
			}
		}
	}
	return nil
}

// touched finds whose roles the change touches, as the directory is before it.
func (w *work) touched(old []usher.Role) (err error) {
	w.splits = w.book.Separates()
	if w.seats = w.book.Seated() || len(w.change.DropMembers) > 0; !w.seats {
		if w.seats, err = w.before.HasRoleSeats(w.ctx); err != nil {
			return err
		}
	}
	if w.seats || w.splits {
		w.members, err = w.affected(w.before, w.book.Customer(old))
	}
	return err
}

// affected lists the members whose roles the change touches, as a directory has
// them: itself or through groups.
func (w *work) affected(d store.Directory, roles *access.Roles) ([]string, error) {
	members, groups := map[string]bool{}, map[string]bool{}
	add := func(h usher.Holder) {
		if h.Group {
			groups[h.ID] = true
		} else {
			members[h.ID] = true
		}
	}
	for i := range w.change.Members {
		members[w.change.Members[i].ID] = true
	}
	for _, id := range w.change.DropMembers {
		members[id] = true
	}
	for _, id := range w.change.DropGroups {
		groups[id] = true
	}
	for _, list := range [][]usher.Membership{w.change.Join, w.change.Leave} {
		for _, m := range list {
			add(m.Holder)
		}
	}
	for i := range w.change.Assignments {
		add(w.change.Assignments[i].Holder)
	}
	for _, id := range w.change.DropAssignments {
		a, err := d.Assignment(w.ctx, id)
		if usher.ErrorCode(err) == usher.NotFound {
			continue
		} else if err != nil {
			return nil, err
		}
		add(a.Holder)
	}
	// A role that changes touches all who hold it, or another that includes it.
	if len(w.change.Roles)+len(w.change.DropRoles) > 0 {
		var changed []string
		for i := range w.change.Roles {
			changed = append(changed, w.change.Roles[i].Key)
		}
		changed = append(changed, w.change.DropRoles...)
		all, err := d.Assignments(w.ctx, store.AssignmentFilter{}, "", 1<<30)
		if err != nil {
			return nil, err
		}
		for i := range all {
			if slices.ContainsFunc(changed, func(key string) bool { return roles.Includes(all[i].Role, key) || w.roles.Includes(all[i].Role, key) }) {
				add(all[i].Holder)
			}
		}
	}
	under, err := d.Under(w.ctx, slices.Collect(maps.Keys(groups)))
	if err != nil {
		return nil, err
	}
	for _, id := range under {
		members[id] = true
	}
	return slices.Sorted(maps.Keys(members)), nil
}

// holdings is the seats that a member's roles ask for, now or later, each with
// when it ends (zero: it does not), and the roles themselves.
func (w *work) holdings(f *store.MemberFacts) (ends map[string]time.Time, held []string) {
	for i := range f.Assignments {
		a := &f.Assignments[i]
		held = append(held, a.Role)
		if f.Member == nil || !f.Member.Active {
			continue
		}
		for _, feature := range w.roles.Seats(a.Role) {
			if ends == nil {
				ends = map[string]time.Time{}
			}
			end, there := ends[feature]
			switch {
			case a.Until == nil:
				ends[feature] = time.Time{}
			case !there || !end.IsZero() && end.Before(*a.Until):
				ends[feature] = *a.Until
			}
		}
	}
	return ends, held
}

// check looks at the directory as it will be.
func (w *work) check(d store.Directory) error {
	if err := w.there(d); err != nil {
		return err
	}
	for _, m := range w.change.Join {
		if !m.Holder.Group {
			continue
		}
		above, err := d.Above(w.ctx, m.Holder.ID)
		if err != nil {
			return err
		}
		if slices.Contains(above, m.Holder.ID) {
			return usher.Errorf(usher.Refused, "the group %q would be in itself, through %q", m.Holder.ID, m.Group)
		}
	}
	if err := w.joined(d); err != nil {
		return err
	}
	if len(w.change.DropRoles) > 0 {
		for _, key := range w.change.DropRoles {
			all, err := d.Assignments(w.ctx, store.AssignmentFilter{Role: key}, "", 1<<30) // most may be over
			if err != nil {
				return err
			}
			all = slices.DeleteFunc(all, func(a usher.Assignment) bool { return a.Until != nil && !a.Until.After(w.now) })
			if len(all) > 0 {
				return usher.Errorf(usher.InUse, "the role %q is held (assignment %s, and perhaps more): take it away first", key, all[0].ID)
			}
		}
	}
	if !w.seats && !w.splits {
		return nil
	}
	members, err := w.affected(d, w.roles)
	if err != nil {
		return err
	}
	members = sorted(append(members, w.members...))
	facts, err := d.Facts(w.ctx, members, w.now, 0)
	if err != nil {
		return err
	}
	w.needs = store.SeatNeeds{Members: members, Needs: map[string]map[string]time.Time{}}
	for _, id := range members {
		ends, held := w.holdings(facts[id])
		if w.needs.Needs[id] = ends; facts[id].Member == nil {
			w.needs.Gone = append(w.needs.Gone, id)
		}
		if rule, one, other := w.roles.Separated(held); rule != nil {
			return usher.Errorf(usher.Refused, "the member %q would hold %q and %q, which the rule %q keeps apart", id, one, other, rule.Key)
		}
	}
	return nil
}

// there checks that all that the change names is there.
func (w *work) there(d store.Directory) error {
	var members, groups []string
	name := func(h usher.Holder) {
		if h.Group {
			groups = append(groups, h.ID)
		} else {
			members = append(members, h.ID)
		}
	}
	for _, m := range w.change.Join {
		groups = append(groups, m.Group)
		name(m.Holder)
	}
	for i := range w.change.Assignments {
		name(w.change.Assignments[i].Holder)
	}
	haveMembers, err := d.HasMembers(w.ctx, sorted(members))
	if err != nil {
		return err
	}
	haveGroups, err := d.HasGroups(w.ctx, sorted(groups))
	if err != nil {
		return err
	}
	var p problems
	missing := func(location string, h usher.Holder) {
		switch {
		case h.Group && !haveGroups[h.ID]:
			p.add(location, "there is no group %q", h.ID)
		case !h.Group && !haveMembers[h.ID]:
			p.add(location, "there is no member %q", h.ID)
		}
	}
	for i, m := range w.change.Join {
		missing(fmt.Sprintf("join[%d].group", i), usher.Holder{Group: true, ID: m.Group})
		missing(fmt.Sprintf("join[%d].id", i), m.Holder)
	}
	for i := range w.change.Assignments {
		missing(fmt.Sprintf("assignments[%d].holder", i), w.change.Assignments[i].Holder)
	}
	return p.err()
}

// wanted is what the change does to seats, once check has looked: what roles ask
// for is taken, what roles took and none asks for any more is freed.
func (w *work) wanted(store.Directory) (store.SeatNeeds, error) { return w.needs, nil }

// summary is what the audit log says of a change: ids and roles, no personal data.
func (w *work) summary() json.RawMessage {
	d := &w.change
	type members struct {
		ID     string `json:"id"`
		Type   string `json:"type"`
		Active bool   `json:"active"`
		Said   bool   `json:"properties,omitempty"` // that there are any
	}
	type named struct {
		Type string `json:"type"`
		ID   string `json:"id"`
	}
	v := struct {
		Members         []members          `json:"members,omitempty"`
		DropMembers     []string           `json:"drop_members,omitempty"`
		Groups          []string           `json:"groups,omitempty"`
		DropGroups      []string           `json:"drop_groups,omitempty"`
		Join            []usher.Membership `json:"join,omitempty"`
		Leave           []usher.Membership `json:"leave,omitempty"`
		Roles           []usher.Role       `json:"roles,omitempty"`
		DropRoles       []string           `json:"drop_roles,omitempty"`
		Assignments     []usher.Assignment `json:"assignments,omitempty"`
		DropAssignments []string           `json:"drop_assignments,omitempty"`
		Resources       []named            `json:"resources,omitempty"`
		DropResources   []named            `json:"drop_resources,omitempty"`
	}{DropMembers: d.DropMembers, DropGroups: d.DropGroups, Join: d.Join, Leave: d.Leave, DropRoles: d.DropRoles, DropAssignments: d.DropAssignments}
	for _, m := range d.Members {
		v.Members = append(v.Members, members{m.ID, m.Type, m.Active, len(m.Properties) > 0})
	}
	for _, g := range d.Groups {
		v.Groups = append(v.Groups, g.ID)
	}
	for _, r := range d.Roles {
		r.Title = "" // free text
		v.Roles = append(v.Roles, r)
	}
	for _, a := range d.Assignments {
		a.Reason = ""
		v.Assignments = append(v.Assignments, a)
	}
	for _, r := range d.Resources {
		v.Resources = append(v.Resources, named{r.Type, r.ID})
	}
	for _, r := range d.DropResources {
		v.DropResources = append(v.DropResources, named{r.Type, r.ID})
	}
	b, err := json.Marshal(v)
	if err != nil { // text, times and flags
		return nil
	}
	return b
}

// RoleView is a role that a customer can assign.
type RoleView struct {
	Key         string   `json:"key"`
	Title       string   `json:"title,omitempty"`
	Custom      bool     `json:"custom"` // the customer's own
	Includes    []string `json:"includes,omitempty"`
	Permissions []string `json:"permissions"`     // as it was written: keys and patterns
	Gives       []string `json:"gives"`           // what it gives in truth, by key, under whatever conditions
	Seats       []string `json:"seats,omitempty"` // features of kind seats that its holders must sit in
	When        string   `json:"when,omitempty"`
}

// Roles lists the catalogue's roles and the customer's own, by key.
func (s *Service) Roles(ctx context.Context, env usher.Environment, customer string) ([]RoleView, error) {
	d := s.Read(env, customer)
	if _, err := d.Revision(ctx); err != nil {
		return nil, err
	}
	own, err := d.Roles(ctx)
	if err != nil {
		return nil, err
	}
	roles := s.cfg.Live.Access(env).Customer(own)
	var all []RoleView
	view := func(r *usher.Role, custom bool) {
		v := RoleView{Key: r.Key, Title: r.Title, Custom: custom, Includes: r.Includes, Permissions: r.Permissions, Gives: roles.Gives(r.Key), Seats: roles.Seats(r.Key), When: r.When}
		if v.Permissions == nil {
			v.Permissions = []string{}
		}
		if v.Gives == nil {
			v.Gives = []string{}
		}
		all = append(all, v)
	}
	for _, r := range s.cfg.Live.Catalog(env).Roles {
		view(r, false)
	}
	for i := range own {
		view(&own[i], true)
	}
	slices.SortFunc(all, func(x, y RoleView) int { return strings.Compare(x.Key, y.Key) })
	return all, nil
}
