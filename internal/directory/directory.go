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

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/live"
	"github.com/usher-sh/usher/internal/store"
)

// Config is what the room works with.
type Config struct {
	DB   *store.DB
	Live *live.Live
	// Direct applies a change together with what it does to seats (A08): the
	// writer of use does.
	Direct func(ctx context.Context, c *store.DirectoryChange, seats func() store.SeatNeeds) (int64, error)
}

// Service changes directories. Its methods are safe for concurrent use.
type Service struct{ cfg Config }

// New makes the service. It starts nothing.
func New(cfg Config) *Service { return &Service{cfg} }

// Change is one change of a directory: all of it or none. Each of Members,
// Groups, Roles, Assign and Resources becomes what it says, new or not; what is
// dropped and was not there does not matter.
type Change struct {
	// Action and Object are what the audit log calls the change: "member.put" and
	// the member's id. An empty Action is "directory.change", an empty Object the
	// customer's id.
	Action, Object string

	// MergeMembers and MergeGroups are completed by what is there, in each attempt
	// anew; Members and Groups are taken as they are.
	MergeMembers  []MemberInput
	MergeGroups   []GroupInput
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
	// By is the member on whose behalf it is done, who cannot give what it does
	// not hold itself (A05), be it by a role or by a group that has one, and gives
	// itself nothing; "": the caller's own doing.
	By string
}

// AssignmentID is the id of an assignment: one for each holder, role, resource
// and source, so that the same again is the same.
func (s *Service) AssignmentID(a usher.Assignment) string { return assignmentID(&a) }

var lower = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

func assignmentID(a *usher.Assignment) string {
	// Texts and flags only: it cannot fail.
	b, _ := json.Marshal([]any{a.Holder.Group, a.Holder.ID, a.Role, a.ResourceType, a.ResourceID, a.Source})
	sum := sha256.Sum256(b)
	return "asg_" + lower.EncodeToString(sum[:15])
}

// Apply makes a change and returns the revision that has it. It returns NotFound
// where the customer is unknown, Invalid with all that is wrong with the change,
// Refused where a rule forbids it (a cycle, a ceiling, separated duties, no free
// seat) and InUse for a role that is dropped while somebody holds it.
func (s *Service) Apply(ctx context.Context, env usher.Environment, by usher.By, customer string, c Change) (revision int64, err error) {
	_, revision, err = s.run(ctx, env, by, customer, c)
	return revision, err
}

// run is Apply, and returns the attempt that was committed.
func (s *Service) run(ctx context.Context, env usher.Environment, by usher.By, customer string, c Change) (w *work, revision int64, err error) {
	err = s.cfg.Live.Change(ctx, env, customer, func() (err error) {
		w, revision, err = s.attempt(ctx, env, by, customer, c, nil)
		return err
	})
	return w, revision, err
}

// ApplyAt makes a change that was computed from the directory's revision basis,
// as Apply does, but only once: it returns store.ErrStale when the directory or
// the catalogue has another revision by now. Call it within live.Change.
func (s *Service) ApplyAt(ctx context.Context, env usher.Environment, by usher.By, customer string, c Change, basis int64) (int64, error) {
	_, revision, err := s.attempt(ctx, env, by, customer, c, &basis)
	return revision, err
}

// attempt makes one attempt at a change; c is a copy, because merge completes it.
func (s *Service) attempt(ctx context.Context, env usher.Environment, by usher.By, customer string, c Change, basis *int64) (
	w *work, revision int64, err error) {
	if w, err = s.work(ctx, env, by, customer, &c, basis); err != nil {
		return nil, 0, err
	}
	if w.seats {
		revision, err = s.cfg.Direct(ctx, &w.change, w.wanted)
	} else {
		revision, err = s.cfg.DB.ChangeDirectory(ctx, &w.change)
	}
	return w, revision, err
}
