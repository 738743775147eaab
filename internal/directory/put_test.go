package directory

import (
	"reflect"
	"testing"

	"github.com/usher-sh/usher"
)

// A put says only what it says: the rest stays, also when it is one of many in a
// change of the whole directory.
func TestPutKeepsWhatItLeavesOut(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		n := newNode(t, dsn, "a")
		n.found(t, 2)
		ctx, no := t.Context(), false
		made, err := n.PutMember(ctx, env, usher.By{}, "firm", MemberInput{ID: "ann", Type: "robot", Active: &no,
			Properties: map[string]any{"x": 1.0}}, "")
		if err != nil || !made.New || made.Value.Type != "robot" || made.Value.Active || made.Value.CreatedAt.IsZero() {
			t.Fatalf("got %+v %v", made, err)
		}
		again, err := n.PutMember(ctx, env, usher.By{}, "firm", MemberInput{ID: "ann"}, "")
		want := made.Value
		want.Properties = nil
		if err != nil || again.New || !reflect.DeepEqual(again.Value, want) || again.Revision <= made.Revision {
			t.Errorf("got %+v %v, want %+v", again, err, want)
		}
		if got, err := n.Read(env, "firm").Member(ctx, "ann"); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v %v, want %+v", got, err, want)
		}

		ids := []string{"m0", "ann"}
		group, err := n.PutGroup(ctx, env, usher.By{}, "firm", GroupInput{ID: "g", Title: "G", Members: &ids}, "")
		if err != nil || !group.New {
			t.Fatalf("got %+v %v", group, err)
		}
		ids = []string{"ann", "m1"}
		n.do(t, Change{MergeGroups: []GroupInput{{ID: "g", Members: &ids}}, MergeMembers: []MemberInput{{ID: "m0"}}})
		in, err := n.Read(env, "firm").In(ctx, "g", nil, 10)
		if want := []usher.Holder{{ID: "ann"}, {ID: "m1"}}; err != nil || !reflect.DeepEqual(in, want) {
			t.Errorf("got %v %v, want %v", in, err, want)
		}

		file := usher.Resource{Type: "file", ID: "f"}
		first, err := n.PutResource(ctx, env, usher.By{}, "firm", file)
		if err != nil || !first.New {
			t.Fatalf("got %+v %v", first, err)
		}
		file.Properties = map[string]any{"owner": "ann"}
		n.do(t, Change{Resources: []usher.Resource{file}})
		got, err := n.Read(env, "firm").Resource(ctx, "file", "f")
		if file.CreatedAt = first.Value.CreatedAt; err != nil || !reflect.DeepEqual(got, file) {
			t.Errorf("got %+v %v, want %+v", got, err, file)
		}
	})
}

// What cannot be an id is refused with its place, and asked of no database.
func TestPutRefusesWhatIsNoID(t *testing.T) {
	each(t, func(t *testing.T, dsn string) {
		n := newNode(t, dsn, "a")
		n.found(t, 1)
		for _, bad := range []string{"", "a\x00b", "\xff"} {
			for place, put := range map[string]func() error{
				"id": func() error {
					_, err := n.PutMember(t.Context(), env, usher.By{}, "firm", MemberInput{ID: bad}, "")
					return err
				},
				"groups[0].id": func() error {
					_, err := n.Apply(t.Context(), env, usher.By{}, "firm", Change{MergeGroups: []GroupInput{{ID: bad}}})
					return err
				},
				"type": func() error {
					_, err := n.PutResource(t.Context(), env, usher.By{}, "firm", usher.Resource{Type: bad, ID: "f"})
					return err
				},
			} {
				e, ok := put().(*usher.Error)
				if !ok || e.Code != usher.Invalid || len(e.Problems) != 1 || e.Problems[0].Location != place {
					t.Errorf("%q at %s: got %+v", bad, place, e)
				}
			}
		}
	})
}
