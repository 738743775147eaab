// Package directory makes every change to who a customer's people are and what
// they may do: members, groups, custom roles, assignments and resources. It
// refuses a change that would give a member more than the rules allow. It does not
// answer questions about access (decide does).
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

// Config is what the service needs. All fields are required.
type Config struct {
	DB   *store.DB
	Live *live.Live
	// Direct applies a change together with its changes of seats, in one transaction
	// (A08): usage.Direct.
	Direct func(ctx context.Context, c *store.DirectoryChange, seats func() store.SeatNeeds) (int64, error)
}

// Service changes directories. Its methods are safe for concurrent use.
type Service struct{ cfg Config }

// New returns a Service. It starts nothing.
func New(cfg Config) *Service { return &Service{cfg} }

// Change is one change of a directory. It is applied as a whole or not at all.
// Members, Groups, Roles, Assign and Resources are created or replaced. Dropping what
// does not exist is no error.
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
	Roles         []usher.Role // custom roles
	DropRoles     []string
	Assign        []usher.Assignment // without ids: AssignmentID makes them
	Unassign      []string           // ids
	Resources     []usher.Resource
	DropResources []usher.Resource
	// By is the member on whose behalf the caller makes the change. A member cannot
	// give what it does not hold itself (A05), neither by a role nor by a group that
	// has a role, and cannot give anything to itself. What it cannot give it cannot take
	// away either (S56): not from a role, an assignment, a group or a member.
	// "": no member's behalf.
	By string
}

// AssignmentID returns the id of an assignment. It follows from holder, role, resource
// and source, so that the same assignment made again has the same id.
func (s *Service) AssignmentID(a usher.Assignment) string { return assignmentID(&a) }

var lower = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

func assignmentID(a *usher.Assignment) string {
	// Texts and flags only: it cannot fail.
	b, _ := json.Marshal([]any{a.Holder.Group, a.Holder.ID, a.Role, a.ResourceType, a.ResourceID, a.Source})
	sum := sha256.Sum256(b)
	return "asg_" + lower.EncodeToString(sum[:15])
}

// Apply makes a change and returns its revision. It returns NotFound if the customer
// is unknown, Invalid with all that is wrong with the change, Refused if a rule
// forbids it (a cycle, a ceiling, separated duties, no free seat), and InUse if it
// drops a role that is assigned.
func (s *Service) Apply(ctx context.Context, env usher.Environment, by usher.By, customer string, c Change) (revision int64, err error) {
	_, revision, err = s.run(ctx, env, by, customer, c)
	return revision, err
}

// run is like Apply, and also returns the attempt that was committed.
func (s *Service) run(ctx context.Context, env usher.Environment, by usher.By, customer string, c Change) (
	w *work, revision int64, err error) {
	err = s.cfg.Live.Change(ctx, env, customer, func() (err error) {
		w, revision, err = s.attempt(ctx, env, by, customer, c, nil)
		return err
	})
	return w, revision, err
}

// ApplyAt makes a change that was computed from the directory at revision basis. It
// is like Apply, but tries only once: it returns store.ErrStale if the directory or the
// catalogue has another revision by now. Call it within live.Change.
func (s *Service) ApplyAt(ctx context.Context, env usher.Environment, by usher.By, customer string, c Change, basis int64) (int64, error) {
	_, revision, err := s.attempt(ctx, env, by, customer, c, &basis)
	return revision, err
}

// attempt makes one attempt at a change. c is a copy, which merge completes.
func (s *Service) attempt(ctx context.Context, env usher.Environment, by usher.By, customer string, c Change, basis *int64) (
	w *work, revision int64, err error) {
	if w, err = s.work(ctx, env, by, customer, &c, basis); err != nil {
		return nil, 0, err
	}
	// A change that may take or free seats runs in the writer of use, because seats are
	// counted there (A08).
	if w.seats {
		revision, err = s.cfg.Direct(ctx, &w.change, w.wanted)
	} else {
		revision, err = s.cfg.DB.ChangeDirectory(ctx, &w.change)
	}
	return w, revision, err
}
