package api

import (
	"fmt"
	"strings"
	"testing"
)

// TestS56_WhoCannotGiveCannotTake: what a member cannot give, a change on its behalf
// does not take away either, on any route.
func TestS56_WhoCannotGiveCannotTake(t *testing.T) {
	peopleOnBoth(t, func(t *testing.T, w *world) {
		const firm, july, june = "/v1/customers/firm/", "2999-07-01T00:00:00Z", "2999-06-01T00:00:00Z"
		refused := func(method, path, body, words string) {
			t.Helper()
			got := w.ask(t, 422, method, firm+path, body)
			if detail := fmt.Sprint(got["detail"]); !strings.Contains(detail, `"alice" cannot `+words) {
				t.Errorf("%s %s %s: got %s, want %q in it", method, path, body, detail, words)
			}
		}
		id := func(body string) string {
			t.Helper()
			return w.ask(t, 200, "PUT", firm+"assignments", body)["id"].(string)
		}
		// alice may give viewer, and payer until July. bob has payer permanently, carol viewer.
		id(`{"member":"alice","role":"viewer"}`)
		id(`{"member":"alice","role":"payer","until":"` + july + `"}`)
		bobs, carols := id(`{"member":"bob","role":"payer"}`), id(`{"member":"carol","role":"viewer"}`)

		// An assignment: removed, shortened at its end, moved to a later start.
		refused("DELETE", "assignments/"+bobs+"?by=alice", ``, "take away the assignment")
		refused("POST", "directory", `{"by":"alice","unassign":["`+bobs+`"]}`, "take away the assignment")
		refused("PUT", "assignments", `{"by":"alice","member":"bob","role":"payer","until":"`+june+`"}`, "shorten the assignment")
		refused("POST", "directory", `{"by":"alice","assignments":[{"member":"bob","role":"payer","until":"`+june+`"}]}`,
			"shorten the assignment")
		// A member: removed or deactivated.
		refused("DELETE", "members/bob?by=alice", ``, `remove the member "bob"`)
		refused("POST", "directory", `{"by":"alice","drop_members":["bob"]}`, `remove the member "bob"`)
		refused("PUT", "members/bob", `{"by":"alice","active":false}`, `deactivate the member "bob"`)
		refused("POST", "directory", `{"by":"alice","members":[{"id":"bob","active":false}]}`, `deactivate the member "bob"`)
		// A group that gives payer, by itself or through the group that it is in.
		w.ask(t, 201, "PUT", firm+"groups/inner", `{"members":["carol"]}`)
		w.ask(t, 201, "PUT", firm+"groups/payers", `{"groups":["inner"]}`)
		id(`{"group":"payers","role":"payer"}`)
		refused("DELETE", "groups/payers?by=alice", ``, `remove the group "payers"`)
		refused("DELETE", "groups/inner?by=alice", ``, `remove the group "inner"`)
		refused("POST", "directory", `{"by":"alice","drop_groups":["inner"]}`, `remove the group "inner"`)
		refused("DELETE", "groups/inner/members/carol?by=alice", ``, `take anyone out of the group "inner"`)
		refused("DELETE", "groups/payers/groups/inner?by=alice", ``, `take anyone out of the group "payers"`)
		refused("POST", "directory", `{"by":"alice","leave":[{"group":"inner","member":"carol"}]}`, `take anyone out of the group "inner"`)
		refused("PUT", "groups/inner", `{"by":"alice","members":[]}`, `take anyone out of the group "inner"`)
		refused("PUT", "groups/payers", `{"by":"alice","groups":[]}`, `take anyone out of the group "payers"`)
		refused("DELETE", "members/carol?by=alice", ``, `remove the member "carol"`)
		refused("PUT", "groups/inner/members/bob?by=alice", ``, `put anyone into the group "inner"`)
		w.ask(t, 201, "PUT", firm+"groups/other", `{}`)
		refused("PUT", "groups/inner/groups/other?by=alice", ``, `put anyone into the group "inner"`)
		refused("PUT", "groups/inner", `{"by":"alice","members":["bob","carol"]}`, `put anyone into the group "inner"`)
		// A role: removed, or with fewer permissions.
		w.ask(t, 200, "PUT", firm+"roles/both", `{"permissions":["report.read","report.export"]}`)
		refused("DELETE", "roles/both?by=alice", ``, `take permissions from the role "both"`)
		refused("POST", "directory", `{"by":"alice","drop_roles":["both"]}`, `take permissions from the role "both"`)
		refused("PUT", "roles/both", `{"by":"alice","permissions":["report.read"]}`, `take permissions from the role "both"`)
		refused("POST", "directory", `{"by":"alice","roles":[{"key":"both","permissions":["report.read"]}]}`,
			`take permissions from the role "both"`)

		// Nothing of it happened.
		if got := w.ask(t, 200, "GET", firm+"members/bob", ``); got["active"] != true || len(got["assignments"].([]any)) != 1 {
			t.Errorf("got %v", got)
		}
		if got := w.ask(t, 200, "GET", firm+"groups/inner/members", ``); len(got["data"].([]any)) != 1 {
			t.Errorf("got %v", got)
		}

		// An inactive member gains its roles again when it becomes active.
		w.ask(t, 200, "PUT", firm+"members/bob", `{"active":false}`)
		refused("PUT", "members/bob", `{"by":"alice","active":true}`, `reactivate the member "bob"`)
		refused("DELETE", "members/bob?by=alice", ``, `remove the member "bob"`)
		w.ask(t, 200, "PUT", firm+"members/bob", `{"by":"alice","properties":{"team":"sales"}}`) // no role of bob's asks for it

		// What she can give she can take, in every one of these ways.
		w.ask(t, 200, "PUT", firm+"members/bob", `{"active":true}`)
		w.ask(t, 204, "DELETE", firm+"groups/payers/groups/inner", ``)
		w.ask(t, 200, "PUT", firm+"assignments", `{"by":"alice","member":"carol","role":"viewer","until":"`+june+`"}`)
		w.ask(t, 200, "PUT", firm+"members/carol", `{"by":"alice","active":false}`)
		w.ask(t, 200, "PUT", firm+"members/carol", `{"by":"alice","active":true}`)
		w.ask(t, 204, "DELETE", firm+"assignments/"+carols+"?by=alice", ``)
		w.ask(t, 204, "DELETE", firm+"groups/inner/members/carol?by=alice", ``)
		w.ask(t, 200, "PUT", firm+"groups/inner/members/carol?by=alice", ``)
		w.ask(t, 204, "DELETE", firm+"groups/inner?by=alice", ``)
		w.ask(t, 204, "DELETE", firm+"members/carol?by=alice", ``)
		w.ask(t, 200, "PUT", firm+"roles/reads", `{"by":"alice","permissions":["report.read"]}`)
		w.ask(t, 204, "DELETE", firm+"roles/reads?by=alice", ``)
		// bob has payer until June now, which she holds until July.
		id(`{"member":"bob","role":"payer","until":"` + june + `"}`)
		w.ask(t, 204, "DELETE", firm+"assignments/"+bobs+"?by=alice", ``)

		// Without a member there is nobody to act for; without a name nothing is guarded by mistake.
		w.ask(t, 422, "DELETE", firm+"members/bob?by=nobody", ``)
		w.ask(t, 400, "DELETE", firm+"members/bob?by=", ``)
		w.ask(t, 400, "PUT", firm+"members/bob", `{"by":"","active":false}`)
		w.ask(t, 204, "DELETE", firm+"members/bob", ``) // the key for itself
	})
}

// TestS56_PropertiesTurnRolesOnAndOff: a role with a condition on properties is given and
// taken by changing these.
func TestS56_PropertiesTurnRolesOnAndOff(t *testing.T) {
	peopleOnBoth(t, func(t *testing.T, w *world) {
		const firm = "/v1/customers/firm/"
		w.ask(t, 200, "PUT", firm+"assignments", `{"member":"bob","role":"editor"}`)
		w.ask(t, 200, "PUT", firm+"assignments", `{"member":"alice","role":"editor"}`)
		w.ask(t, 422, "PUT", firm+"members/bob", `{"by":"alice","properties":{"level":3}}`)
		w.ask(t, 422, "PUT", firm+"members/alice", `{"by":"alice","properties":{"level":3}}`)
		w.ask(t, 422, "PUT", firm+"members/bob", `{"by":"alice","type":"robot"}`)
		w.ask(t, 200, "PUT", firm+"members/bob", `{"by":"alice"}`) // nothing changes
		w.ask(t, 200, "PUT", firm+"members/carol", `{"by":"alice","properties":{"level":3}}`)
	})
}
