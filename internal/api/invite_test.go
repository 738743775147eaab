package api

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
)

// TestInvitations: an operator without an identity provider sets a password with a link,
// and has the roles that it was given.
func TestInvitations(t *testing.T) {
	t.Parallel()
	o := newOffice(t, nil)
	boss := o.owner("ann@example.com")
	operator := func(body string) (id string) {
		t.Helper()
		out := o.send("POST", "/v1/operators", body, boss)
		o.want(out, 201, "")
		return field(t, out, "id")
	}
	invite := func(id string) (token string) {
		t.Helper()
		out := o.send("POST", "/v1/operators/"+id+"/invite", "", boss)
		o.want(out, 201, "")
		token = field(t, out, "token")
		if url := field(t, out, "url"); !strings.HasSuffix(url, "/login#"+token) || !strings.HasPrefix(token, "uso_") {
			t.Errorf("got %s, %s", url, token)
		}
		ends, err := time.Parse(time.RFC3339, field(t, out, "expires_at"))
		if left := time.Until(ends); err != nil || left < 23*time.Hour || left > 25*time.Hour {
			t.Errorf("the invitation ends %v, want in a day", ends)
		}
		return token
	}
	const first, second = "four small words here", "five other words are here"
	accept := func(token, password string) string { return `{"token":"` + token + `","password":"` + password + `"}` }
	login := func(password string) string { return `{"email":"grace@example.com","password":"` + password + `"}` }

	id := operator(`{"name":"Grace","email":"grace@example.com"}`)
	o.want(o.send("PUT", "/v1/operators/"+id+"/roles/support", `{"environment":"production","reason":"joined"}`, boss), 200, "")
	old := invite(id)
	token := invite(id)
	o.want(o.send("POST", "/v1/session/invite", accept(old, first), ""), 401, usher.Unauthenticated) // the newer one voids it
	o.want(o.send("POST", "/v1/session/invite", accept(token, "short"), ""), 400, usher.Invalid)     // which does not use it up
	o.want(o.send("POST", "/v1/session/invite", accept(token, "grace@example.com"), ""), 400, usher.Invalid)
	// Neither route takes the other's token.
	o.want(o.send("POST", "/v1/session/owner", `{"token":"`+token+`","email":"x@example.com","password":"`+first+`"}`, ""), 401,
		usher.Unauthenticated)
	owners := o.token()
	o.want(o.send("POST", "/v1/session/invite", accept(owners, first), ""), 401, usher.Unauthenticated)

	out := o.send("POST", "/v1/session/invite", accept(token, first), "")
	o.want(out, 201, "")
	var s sessionOut
	if err := json.Unmarshal(out.Body.Bytes(), &s); err != nil || s.Operator.ID != id || s.Method != "password" ||
		len(s.Roles[usher.Production]) != 1 || s.Roles[usher.Production][0] != "support" || len(s.Roles[usher.Sandbox]) != 0 {
		t.Errorf("got %s, %v", out.Body, err)
	}
	cookie := given(t, out).Value
	o.want(o.send("GET", "/v1/customers/acme", "", cookie), 200, "")
	o.want(o.send("GET", "/v1/operators", "", cookie), 403, usher.Forbidden)
	o.want(o.send("POST", "/v1/session/invite", accept(token, second), ""), 401, usher.Unauthenticated) // once
	o.want(o.send("POST", "/v1/session", login(first), ""), 201, "")

	// A forgotten password: another invitation, and the sessions from before end.
	o.want(o.send("POST", "/v1/session/invite", accept(invite(id), second), ""), 201, "")
	o.want(o.send("GET", "/v1/session", "", cookie), 401, usher.Unauthenticated)
	o.want(o.send("POST", "/v1/session", login(first), ""), 401, usher.Unauthenticated)
	out = o.send("POST", "/v1/session", login(second), "")
	o.want(out, 201, "")

	// Who may do less does not take over who may do more, and a key for its answer keeps no token.
	support := given(t, out).Value
	o.want(o.send("POST", "/v1/operators/"+id+"/invite", "", support), 403, usher.Forbidden)
	o.want(o.send("POST", "/v1/operators/"+id+"/invite", "", "", "Authorization", "Bearer "+o.keys[auth.RoleApp]), 403, usher.Forbidden)
	o.want(o.send("POST", "/v1/operators/"+id+"/invite", "", boss, "Idempotency-Key", "k"), 400, usher.Invalid)
	o.want(o.send("POST", "/v1/operators/"+id+"/invite", "", "", "Authorization", "Bearer "+o.keys[auth.RoleAdmin]), 201, "")
	o.want(o.send("POST", "/v1/operators/opr_nobody/invite", "", boss), 404, usher.NotFound)
	nameless := operator(`{"name":"Nobody"}`)
	o.want(o.send("POST", "/v1/operators/"+nameless+"/invite", "", boss), 422, usher.Refused)

	// An operator who is not active is not invited, and loses the invitation that it has.
	token = invite(id)
	o.want(o.send("PATCH", "/v1/operators/"+id, `{"active":false}`, boss), 200, "")
	o.want(o.send("POST", "/v1/operators/"+id+"/invite", "", boss), 409, usher.Conflict)
	o.want(o.send("POST", "/v1/session/invite", accept(token, first), ""), 401, usher.Unauthenticated)
	o.want(o.send("PATCH", "/v1/operators/"+id, `{"active":true}`, boss), 200, "")
	o.want(o.send("POST", "/v1/session/invite", accept(token, first), ""), 401, usher.Unauthenticated)
	token = invite(id)
	o.want(o.send("DELETE", "/v1/operators/"+id, "", boss), 204, "")
	o.want(o.send("POST", "/v1/session/invite", accept(token, first), ""), 401, usher.Unauthenticated)
	// It holds for a day; high-risk actions need a fresh proof.
	id = operator(`{"name":"Hal","email":"hal@example.com"}`)
	token = invite(id)
	o.ahead.Add(int64(11 * time.Minute))
	o.want(o.send("POST", "/v1/operators/"+id+"/invite", "", boss), 403, usher.StepUpRequired)
	o.ahead.Add(int64(24 * time.Hour))
	o.want(o.send("POST", "/v1/session/invite", accept(token, first), ""), 401, usher.Unauthenticated)

	o.auth.Close()
	rows, err := o.db.Audit(context.Background(), usher.AuditQuery{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(rows)
	for _, words := range []string{`"operator.invite"`, `"session.invite"`} {
		if !strings.Contains(string(text), words) {
			t.Errorf("the audit log has no %s", words)
		}
	}
	for _, secret := range []string{token, first, second, "grace"} {
		if strings.Contains(string(text), secret) || strings.Contains(o.log.String(), secret) {
			t.Errorf("%q is in a log", secret)
		}
	}
}

// TestAnInvitationIsAcceptedOnce: of many at once, one sets the password.
func TestAnInvitationIsAcceptedOnce(t *testing.T) {
	t.Parallel()
	o := newOffice(t, nil)
	boss := o.owner("ann@example.com")
	out := o.send("POST", "/v1/operators", `{"email":"grace@example.com"}`, boss)
	token := field(t, o.send("POST", "/v1/operators/"+field(t, out, "id")+"/invite", "", boss), "token")
	got := make(chan int)
	for range 3 {
		go func() {
			got <- o.send("POST", "/v1/session/invite", `{"token":"`+token+`","password":"four small words here"}`, "").Code
		}()
	}
	var in int
	for range 3 {
		switch code := <-got; code {
		case 201:
			in++
		case 401, 503: // 503: too many passwords of one address at once
		default:
			t.Errorf("got %d", code)
		}
	}
	if in != 1 {
		t.Errorf("%d came in, want 1", in)
	}
}
