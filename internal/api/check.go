package api

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/door"
)

type checkIn struct {
	Customer    string         `json:"customer" minLength:"1" maxLength:"255"`
	Feature     string         `json:"feature,omitempty" minLength:"1" maxLength:"255" doc:"Required if permission is absent"`
	Amount      usher.Number   `json:"amount,omitempty" doc:"Default 1 for metered, credits and seats"`
	Member      string         `json:"member,omitempty" doc:"The member who asks; it must be registered and active, or the answer is no"`
	Permission  string         `json:"permission,omitempty" doc:"What the member wants to do. The plan must give the features that it is linked with"`
	Resource    *resourceIn    `json:"resource,omitempty" doc:"The resource that the member acts on"`
	Context     map[string]any `json:"context,omitempty" doc:"More values that conditions can read"`
	At          *time.Time     `json:"at,omitempty" doc:"The instant to answer for; default now"`
	MinRevision int64          `json:"min_revision,omitempty" doc:"Answer from this revision or a newer one"`
}

type resourceIn struct {
	Type       string         `json:"type" minLength:"1" maxLength:"255"`
	ID         string         `json:"id" minLength:"1" maxLength:"255"`
	Properties map[string]any `json:"properties,omitempty" doc:"For conditions; each property overrides the registered one of the same name"`
}

type batchIn struct {
	Checks      []checkIn `json:"checks" maxItems:"1000"`
	MinRevision int64     `json:"min_revision,omitempty"`
}

type batchOut struct {
	Decisions []usher.Decision `json:"decisions"`
}

type entitlementsOut struct {
	Data     []usher.Decision `json:"data"`
	Revision int64            `json:"revision" doc:"The revision of the environment that answered"`
}

// maxChecks is how many checks one batch may hold.
const maxChecks = 1000

// checkRoutes registers the questions: may this customer, and this member of
// it, use this feature, this much, now? They read memory, take nothing and
// write nothing, so they are advice: only consume and reserve promise that a
// unit is there. These are the busiest routes, so their bodies are read by
// hand, without reflection or a query to the database.
func (a *api) checkRoutes(d *door.Door) {
	d.Handle(door.Route{Pattern: "POST /v1/check", Perm: auth.PermDecide,
		ID: "check", Tag: "Decisions", Summary: "May this customer use this feature, this much, now?",
		Text: "A decision that says no is a 200. Nothing is counted.", Request: checkIn{}, Response: usher.Decision{},
		Example: `{"customer":"acme","feature":"api_calls","amount":10}`,
		Answer: `{"allowed":true,"reason":"within_limit","customer":"acme","feature":"api_calls","kind":"metered","limit":100000,
			"used":42,"reserved":0,"remaining":99958,"unlimited":false,"overage":0,"window":{"start":"2026-03-01T00:00:00Z",
			"end":"2026-04-01T00:00:00Z"},"plan":"pro@1","revision":17}`}, a.check)
	d.Handle(door.Route{Pattern: "POST /v1/check/batch", Perm: auth.PermDecide,
		ID: "checkBatch", Tag: "Decisions", Summary: "Many checks at one revision",
		Text: "At most 1,000, answered in order.", Request: batchIn{}, Response: batchOut{},
		Example: `{"checks":[{"customer":"acme","feature":"sso"},{"customer":"acme","feature":"api_calls","amount":10}]}`,
		Answer: `{"decisions":[{"allowed":true,"reason":"granted","customer":"acme","feature":"sso","kind":"switch","plan":"pro@1",
			"revision":17},{"allowed":true,"reason":"within_limit","customer":"acme","feature":"api_calls","kind":"metered",
			"limit":100000,"used":42,"reserved":0,"remaining":99958,"unlimited":false,"overage":0,"window":{"start":"2026-03-01T00:00:00Z",
			"end":"2026-04-01T00:00:00Z"},"plan":"pro@1","revision":17}]}`}, a.checkBatch)
	d.Handle(door.Route{Pattern: "POST /v1/explain", Perm: auth.PermDecide,
		ID: "explain", Tag: "Decisions", Summary: "A check, with the reasons for its answer",
		Text: "The decision, each source that was considered, the rule that combined them, each allowance and cap with its numbers, and what " +
			"would change the answer.", Request: checkIn{}, Response: explanationDoc{},
		Example: `{"customer":"acme","feature":"sso"}`,
		Answer: `{"allowed":false,"reason":"not_entitled","customer":"acme","feature":"sso","kind":"switch","revision":17,
			"considered":[],"would_change":[{"kind":"plan","what":"subscribe to the plan pro","target":"pro"}]}`}, a.explain)
	d.Handle(door.Route{Pattern: "GET /v1/customers/{id}/entitlements", Perm: auth.PermDecide,
		ID: "listEntitlements", Tag: "Decisions", Summary: "The decision of every feature for one customer", Response: entitlementsOut{},
		Text: "Each for the amount 1. The ETag changes if anything in the answer does; with If-None-Match, an answer that the caller " +
			"has is a 304. Until a decision's valid_until, and while nothing is used or changed, the answer stays as it is.",
		Cached: true, Sends: []door.Sent{{Name: "ETag", Description: "Changes if anything in the answer does; weak"}},
		Params: []*huma.Param{
			{Name: "id", In: "path", Required: true, Description: "The customer", Schema: &huma.Schema{Type: huma.TypeString}},
			{Name: "at", In: "query", Description: "The instant to answer for; default now", Schema: &huma.Schema{Type: huma.TypeString,
				Format: "date-time"}},
			{Name: "member", In: "query", Description: "The member who asks; default the customer itself",
				Schema: &huma.Schema{Type: huma.TypeString}},
		},
		Answer: `{"data":[{"allowed":true,"reason":"within_limit","customer":"acme","feature":"api_calls","kind":"metered",
			"limit":100000,"used":42,"reserved":0,"remaining":99958,"unlimited":false,"overage":0,"window":{"start":"2026-03-01T00:00:00Z",
			"end":"2026-04-01T00:00:00Z"},"plan":"pro@1","revision":17},{"allowed":true,"reason":"granted","customer":"acme",
			"feature":"sso","kind":"switch","plan":"pro@1","revision":17}],"revision":17}`}, a.entitlements)
}

func (a *api) check(w http.ResponseWriter, r *http.Request, c *door.Call) {
	s := door.Borrow()
	defer s.GiveBack()
	q, err := readCheck(r, c, s)
	c.About = q.Customer
	if err != nil {
		c.Fail(w, err)
		return
	}
	d, err := a.Decide.Check(r.Context(), c.Env, q, &s.Buf)
	if err != nil {
		c.Fail(w, err)
		return
	}
	c.Decided(&d)
	s.Out = d.AppendJSON(s.Out[:0])
	c.Write(w, s.Out)
}

func (a *api) explain(w http.ResponseWriter, r *http.Request, c *door.Call) {
	s := door.Borrow()
	defer s.GiveBack()
	q, err := readCheck(r, c, s)
	c.About = q.Customer
	if err != nil {
		c.Fail(w, err)
		return
	}
	x, err := a.Decide.Explain(r.Context(), c.Env, q)
	var body []byte
	if err == nil {
		body, err = json.Marshal(x)
	}
	if err != nil {
		c.Fail(w, err)
		return
	}
	c.Write(w, body)
}

func (a *api) checkBatch(w http.ResponseWriter, r *http.Request, c *door.Call) {
	s := door.Borrow()
	defer s.GiveBack()
	var err error
	if s.In, err = c.ReadAll(r, s.In); err != nil {
		c.Fail(w, err)
		return
	}
	qs, revision, err := readBatch(&s.R, s.In)
	if err != nil {
		c.Fail(w, err)
		return
	}
	for i := range qs {
		if err := maySay(c, qs[i].Said); err != nil {
			c.Fail(w, err)
			return
		}
	}
	if err := a.Decide.CheckAmounts(c.Env, qs); err != nil {
		c.Fail(w, err)
		return
	}
	list, err := a.Decide.Batch(r.Context(), c.Env, qs, revision)
	if err != nil {
		c.Fail(w, err)
		return
	}
	s.Out = appendDecisions(c, append(s.Out[:0], `{"decisions":[`...), list)
	s.Out = append(s.Out, ']', '}')
	c.Write(w, s.Out)
}

// maySay returns Forbidden if a request says something about members or
// resources and its key may not.
func maySay(c *door.Call, said *access.Said) error {
	if said != nil && !c.Properties {
		return usher.Errorf(usher.Forbidden, "this key may not send properties or context: conditions read what is registered")
	}
	return nil
}

func (a *api) entitlements(w http.ResponseWriter, r *http.Request, c *door.Call) {
	id := r.PathValue("id")
	if err := usher.CheckID("", id); err != nil {
		c.Fail(w, door.Invalid("path.id", "%s", strings.TrimSpace(err.Error())))
		return
	}
	query, err := door.Parameters(r, "at", "member")
	var when time.Time
	if text, ok := query["at"]; ok && err == nil {
		when, err = usher.ParseTime(text)
		err = door.At("query.at", err)
	}
	member := query["member"]
	if member != "" && err == nil {
		err = door.At("query.member", usher.CheckID("", member))
	}
	if err != nil {
		c.Fail(w, err)
		return
	}
	list, err := a.Decide.Entitlements(r.Context(), c.Env, id, member, when)
	if err != nil {
		c.Fail(w, err)
		return
	}
	s := door.Borrow()
	defer s.GiveBack()
	var revision int64
	for i := range list {
		revision = max(revision, list[i].Revision)
	}
	s.Out = appendDecisions(c, append(s.Out[:0], `{"data":[`...), list)
	s.Out = append(strconv.AppendInt(append(s.Out, `],"revision":`...), revision, 10), '}')
	// The answer has the revision, all use, and every instant at which time alone may
	// change it, so its hash is the tag of all of them.
	sum := sha256.Sum256(s.Out)
	if !c.Unchanged(w, r, `W/"`+base64.RawURLEncoding.EncodeToString(sum[:16])+`"`) {
		c.Write(w, s.Out)
	}
}

func appendDecisions(c *door.Call, b []byte, list []usher.Decision) []byte {
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		c.Decided(&list[i])
		b = list[i].AppendJSON(b)
	}
	return b
}

func readCheck(r *http.Request, c *door.Call, s *door.Scratch) (q decide.CheckQuery, err error) {
	if s.In, err = c.ReadAll(r, s.In); err != nil {
		return q, err
	}
	s.R.Reset(s.In)
	q = readQuery(&s.R, "body")
	if err = s.R.Err(); err == nil {
		err = maySay(c, q.Said)
	}
	return q, err
}

// readQuery reads the body of a check, or one item of a batch.
func readQuery(r *door.Reader, location string) (q decide.CheckQuery) {
	problems := len(r.Problems)
	there, featured := false, false // a resource, a feature
	ok := r.Object(location, func(name []byte) {
		switch string(name) {
		case "customer":
			q.Customer = r.String(place(location, "customer"))
		case "feature":
			q.Feature, featured = r.String(place(location, "feature")), true
		case "amount":
			q.Amount = r.Number(place(location, "amount"))
		case "member":
			q.Member = r.String(place(location, "member"))
			r.ID(place(location, "member"), q.Member)
		case "permission":
			q.Permission = r.String(place(location, "permission"))
			r.ID(place(location, "permission"), q.Permission)
		case "resource":
			there = true
			readResource(r, place(location, "resource"), &q)
		case "context":
			if m := r.Map(place(location, "context")); m != nil {
				said(&q).Context = m
			}
		case "at":
			q.At = r.Time(place(location, "at"))
		case "min_revision":
			q.MinRevision = r.Whole(place(location, "min_revision"))
		default:
			r.Unknown(location, name, "customer, feature, amount, member, permission, resource, context, at, min_revision")
		}
	})
	if ok && len(r.Problems) == problems {
		r.ID(place(location, "customer"), q.Customer)
		if featured {
			r.ID(place(location, "feature"), q.Feature)
		}
		switch {
		case q.Permission == "" && !featured:
			r.Note(place(location, "feature"), "is required, unless \"member\" and \"permission\" are set")
		case q.Permission != "" && q.Member == "":
			r.Note(place(location, "member"), "is required when \"permission\" is set")
		case q.Permission == "" && (there || q.Said != nil):
			r.Note(place(location, "permission"), "is required when \"resource\" or \"context\" is set")
		}
	}
	return q
}

func said(q *decide.CheckQuery) *access.Said {
	if q.Said == nil {
		q.Said = &access.Said{}
	}
	return q.Said
}

// readResource reads what a permission is asked about.
func readResource(r *door.Reader, location string, q *decide.CheckQuery) {
	problems := len(r.Problems)
	ok := r.Object(location, func(name []byte) {
		switch string(name) {
		case "type":
			q.Resource.Type = r.String(location + ".type")
		case "id":
			q.Resource.ID = r.String(location + ".id")
		case "properties":
			if m := r.Map(location + ".properties"); m != nil {
				said(q).Resource = m
			}
		default:
			r.Unknown(location, name, "type, id, properties")
		}
	})
	if ok && len(r.Problems) == problems {
		r.ID(location+".type", q.Resource.Type)
		r.ID(location+".id", q.Resource.ID)
	}
}

func readBatch(r *door.Reader, b []byte) (qs []decide.CheckQuery, revision int64, err error) {
	r.Reset(b)
	there := false
	r.Object("body", func(name []byte) {
		switch string(name) {
		case "checks":
			there = true
			r.Array("body.checks", func(i int) {
				if i >= maxChecks {
					if i == maxChecks {
						r.Note("body.checks", "must hold at most %d checks", maxChecks)
					}
					r.Skip()
					return
				}
				q := readQuery(r, "body.checks["+strconv.Itoa(i)+"]")
				revision = max(revision, q.MinRevision)
				qs = append(qs, q)
			})
		case "min_revision":
			revision = max(revision, r.Whole("body.min_revision"))
		default:
			r.Unknown("body", name, "checks, min_revision")
		}
	})
	if !r.Broken() && !there && len(r.Problems) == 0 {
		r.Note("body.checks", "is required: an array of checks")
	}
	return qs, revision, r.Err()
}

// place joins the path to a member. The common ones allocate nothing.
func place(location, name string) string {
	if location == "body" {
		switch name {
		case "customer":
			return "body.customer"
		case "feature":
			return "body.feature"
		case "amount":
			return "body.amount"
		case "at":
			return "body.at"
		case "member":
			return "body.member"
		case "permission":
			return "body.permission"
		case "resource":
			return "body.resource"
		case "min_revision":
			return "body.min_revision"
		case "key":
			return "body.key"
		}
	}
	return location + "." + name
}
