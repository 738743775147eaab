// Package authzen is the door of the OpenID AuthZEN Authorization API 1.0: a
// subject is a member of a customer, and what an action does to a resource is
// the permission `<resource.type>.<action.name>`. A no is a 200; an error is
// about the caller or the request.
package authzen

import (
	"cmp"
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/access"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/decide"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/live"
)

// Unknown members of a request are ignored, as the protocol demands.
type (
	subjectDoc struct {
		_          struct{}       `additionalProperties:"true"`
		Type       string         `json:"type" minLength:"1" maxLength:"255" doc:"The member's type. A member of another type is not the subject"`
		ID         string         `json:"id" minLength:"1" maxLength:"255" doc:"The member's id"`
		Properties map[string]any `json:"properties,omitempty" doc:"For conditions; each property overrides the registered one of the same name"`
	}
	actionDoc struct {
		_          struct{}       `additionalProperties:"true"`
		Name       string         `json:"name" minLength:"1" doc:"The part of the permission after the resource's type and a dot"`
		Properties map[string]any `json:"properties,omitempty"`
	}
	resourceDoc struct {
		_          struct{}       `additionalProperties:"true"`
		Type       string         `json:"type" minLength:"1" maxLength:"255" doc:"The part of the permission before the action's name"`
		ID         string         `json:"id" minLength:"1" maxLength:"255"`
		Properties map[string]any `json:"properties,omitempty" doc:"For conditions; each property overrides the registered one of the same name"`
	}
	inDoc struct {
		_        struct{}       `additionalProperties:"true"`
		Subject  subjectDoc     `json:"subject"`
		Action   actionDoc      `json:"action"`
		Resource resourceDoc    `json:"resource"`
		Context  map[string]any `json:"context,omitempty" doc:"What else conditions read. customer names the customer whose member the subject is. Default: the key's own customer, or the only one that has the subject"`
	}
	outDoc struct {
		Decision bool        `json:"decision"`
		Context  *contextDoc `json:"context,omitempty" doc:"Why; absent with Usher-Context: none"`
	}
	contextDoc struct {
		Reason   usher.Reason `json:"reason,omitempty"`
		Legs     *usher.Legs  `json:"legs,omitempty" doc:"pass, fail, or none if it was not asked"`
		Feature  string       `json:"feature,omitempty" doc:"The feature of the plan that decided"`
		Plan     string       `json:"plan,omitempty"`
		Degraded bool         `json:"degraded,omitempty"`
		Revision int64        `json:"revision,omitempty"`
		Error    *errorDoc    `json:"error,omitempty" doc:"What is wrong with an item of a batch that cannot be decided"`
	}
	errorDoc struct {
		Status  int    `json:"status"`
		Message string `json:"message"`
	}
	itemDoc struct {
		_        struct{}       `additionalProperties:"true"`
		Subject  *subjectDoc    `json:"subject,omitempty"`
		Action   *actionDoc     `json:"action,omitempty"`
		Resource *resourceDoc   `json:"resource,omitempty"`
		Context  map[string]any `json:"context,omitempty"`
	}
	batchInDoc struct {
		_           struct{}       `additionalProperties:"true"`
		Subject     *subjectDoc    `json:"subject,omitempty" doc:"The subject of all items that have none"`
		Action      *actionDoc     `json:"action,omitempty"`
		Resource    *resourceDoc   `json:"resource,omitempty"`
		Context     map[string]any `json:"context,omitempty"`
		Evaluations []itemDoc      `json:"evaluations,omitempty" maxItems:"1000"`
		Options     *optionsDoc    `json:"options,omitempty"`
	}
	optionsDoc struct {
		_        struct{} `additionalProperties:"true"`
		Semantic string   `json:"evaluations_semantic,omitempty" enum:"execute_all,deny_on_first_deny,permit_on_first_permit"`
	}
	batchOutDoc struct {
		Decision    bool        `json:"decision,omitempty" doc:"The decision on a request without items"`
		Context     *contextDoc `json:"context,omitempty" doc:"Why, with decision"`
		Evaluations []outDoc    `json:"evaluations,omitempty" doc:"The decision on each item, in order"`
	}
	metadataDoc struct {
		PolicyDecisionPoint string   `json:"policy_decision_point"`
		Evaluation          string   `json:"access_evaluation_endpoint"`
		Evaluations         string   `json:"access_evaluations_endpoint"`
		SearchSubject       string   `json:"search_subject_endpoint"`
		SearchResource      string   `json:"search_resource_endpoint"`
		SearchAction        string   `json:"search_action_endpoint"`
		Capabilities        []string `json:"capabilities"`
	}
)

const about = "OpenID AuthZEN Authorization API 1.0. A decision that says no is a 200. Unknown members of a request are ignored. "

var contextHeader = []*huma.Param{{Name: "Usher-Context", In: "header",
	Description: "none leaves the context out of the answer; full, the default, says why", Schema: &huma.Schema{Type: huma.TypeString}}}

// The paths of AuthZEN.
const (
	evaluationPath  = "/access/v1/evaluation"
	evaluationsPath = "/access/v1/evaluations"
	searchPath      = "/access/v1/search/"
)

// maxItems bounds the items of one batch.
const maxItems = 1000

// Config is what the door needs. Every field must be set.
type Config struct {
	Live   *live.Live
	Decide *decide.Service
	// PublicURL is scheme and host of the address that clients use, without a path.
	PublicURL string
}

// service is the handlers of AuthZEN. It is safe for concurrent use.
type service struct{ Config }

// Register adds the routes of AuthZEN to a door.
func Register(d *door.Door, c Config) {
	a := &service{c}
	d.Handle(door.Route{Pattern: "GET /.well-known/authzen-configuration",
		ID: "authzenConfiguration", Tag: "AuthZEN", Summary: "The addresses of AuthZEN", Response: metadataDoc{},
		Answer: `{"policy_decision_point":"https://usher.example.com",
			"access_evaluation_endpoint":"https://usher.example.com/access/v1/evaluation",
			"access_evaluations_endpoint":"https://usher.example.com/access/v1/evaluations",
			"search_subject_endpoint":"https://usher.example.com/access/v1/search/subject",
			"search_resource_endpoint":"https://usher.example.com/access/v1/search/resource",
			"search_action_endpoint":"https://usher.example.com/access/v1/search/action",
			"capabilities":["urn:usher:authzen:context"]}`}, a.configuration)
	d.Handle(door.Route{Pattern: "POST " + evaluationPath, Perm: auth.PermAccess,
		ID: "authzenEvaluation", Tag: "AuthZEN", Summary: "May this subject do this to this resource?",
		Text: about, Request: inDoc{}, Response: outDoc{}, Params: contextHeader,
		Example: `{"subject":{"type":"user","id":"ann"},"action":{"name":"read"},"resource":{"type":"report","id":"q1"},
			"context":{"customer":"acme"}}`,
		Answer: `{"decision":true,"context":{"reason":"granted","legs":{"role":"pass","plan":"pass","seat":"none","limit":"none",
			"condition":"none"},"feature":"reports","plan":"pro@1","revision":17}}`}, a.evaluation)
	d.Handle(door.Route{Pattern: "POST " + evaluationsPath, Perm: auth.PermAccess,
		ID: "authzenEvaluations", Tag: "AuthZEN", Summary: "Many evaluations at one revision", MaxBody: 4 << 20,
		Text: about + "At most 1,000, answered in order. An item that is not valid is a no with an error in its context. " +
			"A request without items is one evaluation.",
		Request: batchInDoc{}, Response: batchOutDoc{}, Params: contextHeader,
		Example: `{"subject":{"type":"user","id":"ann"},"resource":{"type":"report","id":"q1"},"context":{"customer":"acme"},
			"evaluations":[{"action":{"name":"read"}},{"action":{"name":"export"}}]}`,
		Answer: `{"evaluations":[{"decision":true,"context":{"reason":"granted","legs":{"role":"pass","plan":"pass","seat":"none",
			"limit":"none","condition":"none"},"revision":17}},{"decision":false,"context":{"reason":"no_role","legs":{
			"role":"fail","plan":"none","seat":"none","limit":"none","condition":"none"},"revision":17}}]}`}, a.evaluations)
	a.searchRoutes(d)
}

// configuration answers with the addresses of AuthZEN. They begin with
// Config.PublicURL, because a caller can send any Host header.
func (a *service) configuration(w http.ResponseWriter, _ *http.Request, c *door.Call) {
	base := strings.TrimRight(a.PublicURL, "/")
	body, err := door.Marshal(metadataDoc{base, base + evaluationPath, base + evaluationsPath,
		base + searchPath + "subject", base + searchPath + "resource", base + searchPath + "action",
		[]string{"urn:usher:authzen:context"}}) // the header Usher-Context
	if err != nil {
		c.Fail(w, err)
		return
	}
	w.Header()["Cache-Control"] = []string{"public, max-age=3600"}
	c.Write(w, body)
}

// entity is a subject, an action or a resource. The id of an action is its name.
type entity struct {
	there      bool
	kind, id   string
	properties map[string]any
}

// evaluation is one question as the caller sent it.
type evaluation struct {
	subject, action, resource entity
	context                   map[string]any // nil: absent
}

// The places of an entity's members, relative to the question. The full place is put
// together only if something is wrong there.
type entityPlaces struct{ self, kind, id, properties string }

var (
	subjectPlaces  = &entityPlaces{"subject", "subject.type", "subject.id", "subject.properties"}
	actionPlaces   = &entityPlaces{"action", "", "action.name", "action.properties"}
	resourcePlaces = &entityPlaces{"resource", "resource.type", "resource.id", "resource.properties"}
)

// member reads one JSON member of a question. It returns false if it does not know it.
func (e *evaluation) member(r *door.Reader, name []byte) bool {
	switch string(name) {
	case "subject":
		e.subject.read(r, subjectPlaces)
	case "action":
		e.action.read(r, actionPlaces)
	case "resource":
		e.resource.read(r, resourcePlaces)
	case "context":
		e.context = r.Map("context")
	default:
		return false
	}
	return true
}

func (e *entity) read(r *door.Reader, at *entityPlaces) {
	e.there = true
	r.Object(at.self, func(name []byte) {
		switch {
		case at.kind != "" && string(name) == "type":
			e.kind = r.MaybeEmpty(at.kind)
		case at.kind != "" && string(name) == "id", at.kind == "" && string(name) == "name":
			e.id = r.MaybeEmpty(at.id)
		case string(name) == "properties":
			e.properties = r.Map(at.properties)
		default:
			r.Skip()
		}
	})
}

// needs notes what is missing of an entity.
func (e *entity) needs(r *door.Reader, at *entityPlaces, id bool) {
	switch {
	case !e.there:
		r.Note(at.self, "is required")
	default:
		if at.kind != "" {
			r.ID(at.kind, e.kind)
		}
		switch {
		case at.kind == "" && id && e.id != "": // the name of an action may be any text
		case id:
			r.ID(at.id, e.id)
		}
	}
}

// customer returns the customer that the context names; "" if it names none.
func (e *evaluation) customer(r *door.Reader) string {
	v, ok := e.context["customer"]
	if !ok {
		return ""
	}
	s, ok := v.(string)
	if !ok {
		r.Note("context.customer", "must be a string: the customer of whom the subject is a member")
		return ""
	}
	r.ID("context.customer", s)
	return s
}

// noPermission stands for names that make no permission's key: no catalogue has it.
const noPermission = "?"

// permission returns the key of the permission to do the action to the resource. The
// action may have dots: a.b.c is the action c on a.b, and the action b.c on a. The scope
// of a role is compared with the resource's own type, so the two never mix (A10). Names
// outside the alphabet of permissions are denied like unknown ones (S56).
func (e *evaluation) permission() string {
	if key := e.resource.kind + "." + e.action.id; usher.ValidPermission(key) {
		return key
	}
	return noPermission
}

// said returns the properties that the question has of subject, action and resource, if
// the key may send properties; otherwise nil.
func (e *evaluation) said(c *door.Call) *access.Said {
	if !c.Properties || e.subject.properties == nil && e.action.properties == nil && e.resource.properties == nil && e.context == nil {
		return nil
	}
	return &access.Said{Subject: e.subject.properties, Action: e.action.properties, Resource: e.resource.properties, Context: e.context}
}

// customerOf returns the customer that a question is about; "" if it cannot be found
// out.
func (a *service) customerOf(ctx context.Context, c *door.Call, named, member string, resource decide.ResourceRef) (id string, err error) {
	if id = cmp.Or(named, c.Customer); id == "" {
		id, err = a.Decide.CustomerOf(ctx, c.Env, member, resource)
	}
	c.About = id
	return id, err
}

// another reports whether the customer's member with the subject's id has another type
// than the subject. Then the subject is a different one, and unknown.
func (a *service) another(ctx context.Context, c *door.Call, customer string, subject *entity) (bool, error) {
	m, err := a.Live.Member(ctx, c.Env, customer, subject.id, a.Live.Now(c.Env))
	if err != nil {
		if usher.ErrorCode(err) == usher.Unavailable {
			return false, nil // the member is unknown, which the decision says by itself
		}
		return false, err
	}
	return m.Member != nil && m.Member.Type != subject.kind, nil
}

// ask turns an evaluation into a question for decide. ok is false if its customer is
// not known.
func (a *service) ask(ctx context.Context, c *door.Call, e *evaluation, named string) (q decide.CheckQuery, ok bool, err error) {
	resource := decide.ResourceRef{Type: e.resource.kind, ID: e.resource.id}
	q = decide.CheckQuery{Member: e.subject.id, Permission: e.permission(), Resource: resource, Said: e.said(c)}
	if q.Customer, err = a.customerOf(ctx, c, named, q.Member, q.Resource); err != nil || q.Customer == "" {
		return q, false, err
	}
	another, err := a.another(ctx, c, q.Customer, &e.subject)
	if another {
		q.Member = "" // of another type: nobody
	}
	return q, true, err
}

// nobody returns the answer to a question whose customer is not known.
func (a *service) nobody(c *door.Call) usher.Decision {
	return usher.Decision{Reason: usher.UnknownCustomer, Revision: a.Live.Revision(c.Env)}
}

func (a *service) evaluation(w http.ResponseWriter, r *http.Request, c *door.Call) {
	s := door.Borrow()
	defer s.GiveBack()
	full, err := read(r, c, s)
	if err != nil {
		c.Fail(w, err)
		return
	}
	var e evaluation
	s.R.Object("", func(name []byte) {
		if !e.member(&s.R, name) {
			s.R.Skip()
		}
	})
	a.single(w, r, c, s, &e, full)
}

// single answers one question.
func (a *service) single(w http.ResponseWriter, r *http.Request, c *door.Call, s *door.Scratch, e *evaluation, full bool) {
	named := e.check(&s.R)
	s.R.Front("body.", 0)
	err := s.R.Err()
	if err != nil {
		c.Fail(w, err)
		return
	}
	d := usher.Decision{}
	q, known, err := a.ask(r.Context(), c, e, named)
	if err == nil && known {
		d, err = a.Decide.Check(r.Context(), c.Env, q, &s.Buf)
	} else if err == nil {
		d = a.nobody(c)
	}
	if err != nil {
		c.Fail(w, err)
		return
	}
	c.Decided(&d)
	s.Out = appendDecision(s.Out[:0], &d, full)
	c.Write(w, s.Out)
}

// check notes what is missing of a question, and returns the customer that it names.
func (e *evaluation) check(r *door.Reader) string {
	if r.Broken() || len(r.Problems) > 0 {
		return ""
	}
	e.subject.needs(r, subjectPlaces, true)
	e.action.needs(r, actionPlaces, true)
	e.resource.needs(r, resourcePlaces, true)
	return e.customer(r)
}

// read reads the body, and whether the caller wants reasons (Usher-Context).
func read(r *http.Request, c *door.Call, s *door.Scratch) (full bool, err error) {
	s.In, err = c.ReadAll(r, s.In)
	if usher.ErrorCode(err) == usher.UnsupportedMedia { // the protocol demands 400
		err = door.Invalid("header.Content-Type", "must be application/json")
	}
	if err != nil {
		return false, err
	}
	s.R.Reset(s.In)
	switch list := r.Header["Usher-Context"]; {
	case len(list) == 0, len(list) == 1 && list[0] == "full":
		return true, nil
	case len(list) == 1 && list[0] == "none":
		return false, nil
	}
	return false, door.Invalid("header.Usher-Context", "must be given once, as full or none")
}

// The semantics of a batch.
const (
	executeAll          = "execute_all"
	denyOnFirstDeny     = "deny_on_first_deny"
	permitOnFirstPermit = "permit_on_first_permit"
)

// item is one evaluation of a batch.
type item struct {
	evaluation
	wrong    string // what is wrong with the item; "": nothing
	decision usher.Decision
}

func (a *service) evaluations(w http.ResponseWriter, r *http.Request, c *door.Call) {
	s := door.Borrow()
	defer s.GiveBack()
	full, err := read(r, c, s)
	if err != nil {
		c.Fail(w, err)
		return
	}
	defaults, items, semantic := readEvaluations(&s.R)
	if len(items) == 0 {
		a.single(w, r, c, s, defaults, full)
		return
	}
	s.R.Front("body.", 0)
	if err := s.R.Err(); err != nil {
		c.Fail(w, err)
		return
	}
	if err := a.answerItems(r.Context(), c, &s.R, defaults, items); err != nil {
		c.Fail(w, err)
		return
	}
	b := append(s.Out[:0], `{"evaluations":[`...)
	for i := range items {
		if i > 0 {
			b = append(b, ',')
		}
		it := &items[i]
		switch {
		case it.wrong == "":
			c.Decided(&it.decision)
			b = appendDecision(b, &it.decision, full)
		case full:
			b = door.AppendText(append(b, `{"decision":false,"context":{"error":{"status":400,"message":`...), it.wrong)
			b = append(b, `}}}`...)
		default:
			b = append(b, `{"decision":false}`...)
		}
		// All items were decided, in one batch at one revision; the semantic only ends the
		// list.
		if yes := it.decision.Allowed; semantic == denyOnFirstDeny && !yes || semantic == permitOnFirstPermit && yes {
			break
		}
	}
	s.Out = append(b, `]}`...)
	c.Write(w, s.Out)
}

// readEvaluations reads a batch. A problem of one item is stored in that item and does
// not fail the batch.
func readEvaluations(r *door.Reader) (defaults *evaluation, items []item, semantic string) {
	defaults = &evaluation{}
	r.Object("", func(name []byte) {
		switch {
		case defaults.member(r, name):
		case string(name) == "evaluations":
			r.Array("evaluations", func(i int) {
				if i >= maxItems {
					if i == maxItems {
						r.Note("evaluations", "must hold at most %d items", maxItems)
					}
					r.Skip()
					return
				}
				items = append(items, item{})
				items[i].read(r)
			})
		case string(name) == "options":
			r.Object("options", func(name []byte) {
				if string(name) != "evaluations_semantic" {
					r.Skip()
					return
				}
				n := len(r.Problems)
				semantic = r.MaybeEmpty("options.evaluations_semantic")
				if len(r.Problems) == n && semantic != executeAll && semantic != denyOnFirstDeny && semantic != permitOnFirstPermit {
					r.Note("options.evaluations_semantic", "must be execute_all, deny_on_first_deny or permit_on_first_permit, got %s",
						door.Clip(semantic))
				}
			})
		default:
			r.Skip()
		}
	})
	return defaults, items, semantic
}

func (it *item) read(r *door.Reader) {
	n := len(r.Problems)
	if n > 10 { // the request itself has problems and is refused, so this item does not matter
		r.Skip()
		return
	}
	r.Object("", func(name []byte) {
		if !it.member(r, name) {
			r.Skip()
		}
	})
	it.take(r, n)
}

// take moves the problems from the nth on from the reader to the item.
func (it *item) take(r *door.Reader, n int) {
	if r.Broken() || len(r.Problems) == n {
		return
	}
	var all []string
	for _, p := range r.Problems[n:] {
		all = append(all, strings.TrimPrefix(p.Location+": "+p.Message, ": "))
	}
	it.wrong, r.Problems = strings.Join(all, "; "), r.Problems[:n]
}

// answerItems decides every valid item, at one revision and one instant. If an item has
// no subject, action, resource or context, it gets the whole one of the defaults.
func (a *service) answerItems(ctx context.Context, c *door.Call, r *door.Reader, defaults *evaluation, items []item) error {
	qs := make([]decide.CheckQuery, 0, len(items))
	of := make([]int, 0, len(items))
	for i := range items {
		it := &items[i]
		if it.wrong != "" {
			continue
		}
		for _, e := range [][2]*entity{{&it.subject, &defaults.subject}, {&it.action, &defaults.action}, {&it.resource, &defaults.resource}} {
			if !e[0].there {
				*e[0] = *e[1]
			}
		}
		if it.context == nil {
			it.context = defaults.context
		}
		named := it.check(r)
		if it.take(r, 0); it.wrong != "" {
			continue
		}
		q, known, err := a.ask(ctx, c, &it.evaluation, named)
		if err != nil {
			return err
		}
		if !known {
			it.decision = a.nobody(c)
			continue
		}
		qs, of = append(qs, q), append(of, i)
	}
	if len(qs) == 0 {
		return nil
	}
	list, err := a.Decide.Batch(ctx, c.Env, qs, 0)
	for i := range list {
		items[of[i]].decision = list[i]
	}
	return err
}

// appendDecision appends a decision; full adds the reasons.
func appendDecision(b []byte, d *usher.Decision, full bool) []byte {
	b = strconv.AppendBool(append(b, `{"decision":`...), d.Allowed)
	if !full {
		return append(b, '}')
	}
	b = door.AppendText(append(b, `,"context":{"reason":`...), string(d.Reason))
	if l := d.Legs; l != nil {
		b = append(append(b, `,"legs":{"role":"`...), l.Role...)
		b = append(append(b, `","plan":"`...), l.Plan...)
		b = append(append(b, `","seat":"`...), l.Seat...)
		b = append(append(b, `","limit":"`...), l.Limit...)
		b = append(append(append(b, `","condition":"`...), l.Condition...), `"}`...)
	}
	if d.Feature != "" {
		b = door.AppendText(append(b, `,"feature":`...), d.Feature)
	}
	if d.Plan != (usher.Ref{}) {
		b = door.AppendText(append(b, `,"plan":`...), d.Plan.String())
	}
	if d.Degraded {
		b = append(b, `,"degraded":true`...)
	}
	return append(strconv.AppendInt(append(b, `,"revision":`...), d.Revision, 10), `}}`...)
}
