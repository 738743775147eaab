package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/decide"
)

type checkIn struct {
	Customer    string         `json:"customer" minLength:"1" maxLength:"255"`
	Feature     string         `json:"feature,omitempty" minLength:"1" maxLength:"255" doc:"Needed without a permission"`
	Amount      usher.Number   `json:"amount,omitempty" doc:"Default 1 for metered, credits and seats"`
	Member      string         `json:"member,omitempty" doc:"Who of the customer asks: registered and active, or the answer is no"`
	Permission  string         `json:"permission,omitempty" doc:"What the member wants to do. The plan is asked for the features that it is linked with"`
	Resource    *resourceIn    `json:"resource,omitempty" doc:"What it is done to"`
	Context     map[string]any `json:"context,omitempty" doc:"What else conditions read"`
	At          *time.Time     `json:"at,omitempty" doc:"The instant to answer for; default now"`
	MinRevision int64          `json:"min_revision,omitempty" doc:"Answer from this revision or a newer one"`
}

type resourceIn struct {
	Type       string         `json:"type" minLength:"1" maxLength:"255"`
	ID         string         `json:"id" minLength:"1" maxLength:"255"`
	Properties map[string]any `json:"properties,omitempty" doc:"Over those that are registered, key by key, in conditions"`
}

type batchIn struct {
	Checks      []checkIn `json:"checks" maxItems:"1000"`
	MinRevision int64     `json:"min_revision,omitempty"`
}

type batchOut struct {
	Decisions []decisionDoc `json:"decisions"`
}

type entitlementsOut struct {
	Data []decisionDoc `json:"data"`
}

var (
	checkDoc = doc{ID: "check", Tag: "Decisions", Summary: "May this customer use this feature, this much, now?",
		Text: "A decision that says no is a 200. Nothing is counted.", request: checkIn{}, response: decisionDoc{}}
	batchDoc = doc{ID: "checkBatch", Tag: "Decisions", Summary: "Many checks at one revision",
		Text: "At most 1,000, answered in order.", request: batchIn{}, response: batchOut{}}
	explainDoc = doc{ID: "explain", Tag: "Decisions", Summary: "A check, and why it is answered so",
		Text: "The decision, each source that was considered, the rule that combined them, each allowance and cap with its numbers, and what would change the answer.", request: checkIn{}, response: explanationDoc{}}
	entitlementsDoc = doc{ID: "listEntitlements", Tag: "Decisions", Summary: "The decision of every feature for one customer", response: entitlementsOut{},
		params: []*huma.Param{
			{Name: "id", In: "path", Required: true, Description: "The customer", Schema: &huma.Schema{Type: huma.TypeString}},
			{Name: "at", In: "query", Description: "The instant to answer for; default now", Schema: &huma.Schema{Type: huma.TypeString, Format: "date-time"}},
		}}
)

// maxChecks is how many checks one batch may hold.
const maxChecks = 1000

func (a *API) check(w http.ResponseWriter, r *http.Request, c *call) {
	s := a.borrow()
	defer a.giveBack(s)
	q, err := a.readCheck(r, c, s)
	if err != nil {
		a.fail(w, c, err)
		return
	}
	d, err := a.Decide.Check(r.Context(), c.Env, q, &s.buf)
	if err != nil {
		a.fail(w, c, err)
		return
	}
	a.metrics.decided(&d)
	s.out = d.AppendJSON(s.out[:0])
	a.write(w, c, s.out)
}

func (a *API) explain(w http.ResponseWriter, r *http.Request, c *call) {
	s := a.borrow()
	defer a.giveBack(s)
	q, err := a.readCheck(r, c, s)
	if err != nil {
		a.fail(w, c, err)
		return
	}
	x, err := a.Decide.Explain(r.Context(), c.Env, q)
	var body []byte
	if err == nil {
		body, err = json.Marshal(x)
	}
	if err != nil {
		a.fail(w, c, err)
		return
	}
	a.write(w, c, body)
}

func (a *API) checkBatch(w http.ResponseWriter, r *http.Request, c *call) {
	s := a.borrow()
	defer a.giveBack(s)
	var err error
	if s.in, err = a.readAll(r, c.route, s.in); err != nil {
		a.fail(w, c, err)
		return
	}
	qs, revision, err := readBatch(&s.r, s.in)
	if err != nil {
		a.fail(w, c, err)
		return
	}
	for i := range qs {
		if qs[i].Said != nil && !c.Properties {
			a.fail(w, c, usher.Errorf(usher.Forbidden, "this key may not send properties or context: conditions read what is registered"))
			return
		}
	}
	if err := a.checkAmounts(c.Env, qs); err != nil {
		a.fail(w, c, err)
		return
	}
	list, err := a.Decide.Batch(r.Context(), c.Env, qs, revision)
	if err != nil {
		a.fail(w, c, err)
		return
	}
	s.out = a.appendDecisions(append(s.out[:0], `{"decisions":[`...), list)
	s.out = append(s.out, ']', '}')
	a.write(w, c, s.out)
}

// checkAmounts says which amounts of a batch their features cannot count.
func (a *API) checkAmounts(env usher.Environment, qs []decide.CheckQuery) error {
	features := a.Live.Book(env).Features
	var wrong []usher.Problem
	for i := range qs {
		f := features[qs[i].Feature]
		if f == nil || !f.Kind.Counts() || qs[i].Amount == "" {
			continue
		}
		if _, err := qs[i].Amount.Units(f.Precision); err != nil {
			wrong = append(wrong, usher.Problem{Location: "body.checks[" + strconv.Itoa(i) + "].amount", Message: err.Error()})
		}
	}
	if len(wrong) > 0 {
		return invalids(wrong)
	}
	return nil
}

func (a *API) entitlements(w http.ResponseWriter, r *http.Request, c *call) {
	id := r.PathValue("id")
	if err := usher.CheckID("", id); err != nil {
		a.fail(w, c, invalid("path.id", "%s", strings.TrimSpace(err.Error())))
		return
	}
	query, err := parameters(r, "at")
	var when time.Time
	if text, ok := query["at"]; ok && err == nil {
		when, err = usher.ParseTime(text)
		err = at("query.at", err)
	}
	if err != nil {
		a.fail(w, c, err)
		return
	}
	list, err := a.Decide.Entitlements(r.Context(), c.Env, id, when)
	if err != nil {
		a.fail(w, c, err)
		return
	}
	s := a.borrow()
	defer a.giveBack(s)
	s.out = a.appendDecisions(append(s.out[:0], `{"data":[`...), list)
	s.out = append(s.out, ']', '}')
	a.write(w, c, s.out)
}

func (a *API) appendDecisions(b []byte, list []usher.Decision) []byte {
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		a.metrics.decided(&list[i])
		b = list[i].AppendJSON(b)
	}
	return b
}

func (a *API) readCheck(r *http.Request, c *call, s *scratch) (q decide.CheckQuery, err error) {
	if s.in, err = a.readAll(r, c.route, s.in); err != nil {
		return q, err
	}
	s.r.Reset(s.in)
	q = readQuery(&s.r, "body")
	if err = s.r.err(); err == nil && q.Said != nil && !c.Properties {
		err = usher.Errorf(usher.Forbidden, "this key may not send properties or context: conditions read what is registered")
	}
	return q, err
}

// readQuery reads the body of a check, or one item of a batch.
func readQuery(r *reader, location string) (q decide.CheckQuery) {
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
			r.Note(place(location, "feature"), "must be given, or a member and a permission")
		case q.Permission != "" && q.Member == "":
			r.Note(place(location, "member"), "must be given with a permission: permissions are members'")
		case q.Permission == "" && (there || q.Said != nil):
			r.Note(place(location, "permission"), "must be given with a resource or a context: only permissions ask about them")
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
func readResource(r *reader, location string, q *decide.CheckQuery) {
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

func readBatch(r *reader, b []byte) (qs []decide.CheckQuery, revision int64, err error) {
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
		r.Note("body.checks", "must be there: an array of checks")
	}
	return qs, revision, r.err()
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

func clipName(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}

// parameters reads a query string with no parameters but these, each at most
// once and not empty.
func parameters(r *http.Request, known ...string) (map[string]string, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, usher.Errorf(usher.Invalid, "the query string is malformed")
	}
	got := make(map[string]string, len(values))
	var wrong []usher.Problem
	for _, name := range known {
		list, ok := values[name]
		delete(values, name)
		switch {
		case len(list) > 1:
			wrong = append(wrong, usher.Problem{Location: "query." + name, Message: "must be given once"})
		case ok && list[0] == "":
			wrong = append(wrong, usher.Problem{Location: "query." + name, Message: "must not be empty"})
		case ok:
			got[name] = list[0]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		wrong = append(wrong, usher.Problem{Location: "query." + clipName(name), Message: "is no parameter of this: " + strings.Join(known, ", ") + " are"})
	}
	if len(wrong) > 0 {
		return nil, invalids(wrong)
	}
	return got, nil
}
