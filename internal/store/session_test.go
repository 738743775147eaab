package store

import (
	"slices"
	"strconv"
	"testing"

	"github.com/usher-sh/usher"
)

// TestSignIn: an operator is known by issuer and subject; what the claim gives
// replaces what it gave, but for the last owner's role.
func TestSignIn(t *testing.T) {
	each(t, func(t *testing.T, db *DB) {
		made := 0
		sign := func(subject, email string, d int, roles ...string) (string, error) {
			return db.SignIn(t.Context(), SignIn{Subject: usher.SSOSubject{Issuer: "https://idp", Subject: subject}, Email: email, Roles: roles,
				NewID: func(prefix string) string { made++; return prefix + strconv.Itoa(made) }}, "req_1", day(d))
		}
		in := func(subject, email string, d int, roles ...string) string {
			t.Helper()
			id, err := sign(subject, email, d, roles...)
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		forbidden := func(err error, why string) {
			t.Helper()
			if usher.ErrorCode(err) != usher.Forbidden {
				t.Errorf("%s: got %v, want Forbidden", why, err)
			}
		}
		roles := func(id string, d int) (list []string) {
			t.Helper()
			o, err := db.Operator(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range o.Roles {
				if r.InForce(day(d)) {
					list = append(list, r.Role)
				}
			}
			slices.Sort(list)
			return list
		}
		_, err := sign("s1", "Ann@x", 1)
		forbidden(err, "a new person without a role")
		ann := in("s1", "Ann@x", 1, "owner")
		if again := in("s1", "other@x", 2, "owner", "pricing"); again != ann || !slices.Equal(roles(ann, 2), []string{"owner", "pricing"}) {
			t.Errorf("got %s with %v, want the same one with two roles", again, roles(ann, 2))
		}
		// The same email is another person.
		bob := in("s2", "Other@x", 3, "support")
		if o, _ := db.Operator(t.Context(), bob); bob == ann || o.Email != "" {
			t.Errorf("got %+v, want another operator without that email", o)
		}
		// The last owner stays one, whatever the claim says.
		if in("s1", "", 4, "pricing"); !slices.Equal(roles(ann, 4), []string{"owner", "pricing"}) {
			t.Errorf("the last owner has %v", roles(ann, 4))
		}
		in("s2", "", 5, "owner")
		if in("s1", "", 5, "pricing"); !slices.Equal(roles(ann, 5), []string{"pricing"}) {
			t.Errorf("with another owner she has %v, want pricing", roles(ann, 5))
		}
		_, err = sign("s1", "", 6)
		forbidden(err, "without a role")
		if got := roles(ann, 6); got != nil {
			t.Errorf("after a login without a role: %v", got)
		}
		no := false
		if err := db.UpdateOperator(t.Context(), ann, usher.OperatorUpdate{Active: &no}, nil, bySystem, day(7)); err != nil {
			t.Fatal(err)
		}
		_, err = sign("s1", "", 8, "pricing")
		forbidden(err, "not active")
		// An operator who was deleted may come again, as a new one.
		if err := db.SetPassword(t.Context(), ann, "hash", note("test", day(8))); err != nil {
			t.Fatal(err)
		}
		if err := db.DeleteOperator(t.Context(), ann, nil, bySystem, day(9)); err != nil {
			t.Fatal(err)
		}
		if hash, err := db.Password(t.Context(), ann); hash != "" || err != nil {
			t.Errorf("a deleted operator's password is there: %q, %v", hash, err)
		}
		if next := in("s1", "ann@x", 10, "pricing"); next == ann {
			t.Error("a deleted operator is back")
		}
	})
}

// TestSessionsAreFollowedOnce: of two proofs at once one has the session, and a
// login at the provider makes one session.
func TestSessionsAreFollowedOnce(t *testing.T) {
	each(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		s := func(hash, login string) usher.Session {
			return usher.Session{Hash: []byte(hash), ID: "ses_" + hash, Operator: "opr_1", Method: "oidc", Login: login, CreatedAt: day(1),
				SeenAt: day(1)}
		}
		if err := db.StartSession(ctx, s("a", "login"), nil, 20, note("test", day(1))); err != nil {
			t.Fatal(err)
		}
		if err := db.StartSession(ctx, s("b", "login"), nil, 20, note("test", day(1))); usher.ErrorCode(err) != usher.Conflict {
			t.Errorf("the same login again: got %v, want Conflict", err)
		}
		if err := db.FollowSession(ctx, s("c", ""), []byte("a"), note("test", day(1))); err != nil {
			t.Fatal(err)
		}
		if err := db.FollowSession(ctx, s("d", ""), []byte("a"), note("test", day(1))); usher.ErrorCode(err) != usher.Unauthenticated {
			t.Errorf("a session that was followed: got %v, want Unauthenticated", err)
		}
		if got, err := db.Session(ctx, []byte("a")); err != nil || got.EndedAt.IsZero() {
			t.Errorf("got %+v, %v, want it ended", got, err)
		}
		// Long after, the rows go.
		late := s("e", "")
		late.CreatedAt, late.SeenAt = day(9), day(9)
		if err := db.StartSession(ctx, late, nil, 20, note("test", day(9))); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Session(ctx, []byte("c")); usher.ErrorCode(err) != usher.NotFound {
			t.Errorf("an old session: got %v, want NotFound", err)
		}
	})
}
