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

// What is in a request and unknown is ignored: the documents of requests are open.
type (
	subjectDoc struct {
		_          struct{}       `additionalProperties:"true"`
		Type       string         `json:"type" minLength:"1" maxLength:"255" doc:"The member's type; of another type, it is somebody else"`
		ID         string         `json:"id" minLength:"1" maxLength:"255" doc:"The member's id"`
		Properties map[string]any `json:"properties,omitempty" doc:"Over those that are registered, key by key, in conditions"`
	}
	actionDoc struct {
		_          struct{}       `additionalProperties:"true"`
		Name       string         `json:"name" minLength:"1" maxLength:"255" doc:"The last segment of the permission"`
		Properties map[string]any `json:"properties,omitempty"`
	}
	resourceDoc struct {
		_          struct{}       `additionalProperties:"true"`
		Type       string         `json:"type" minLength:"1" maxLength:"255" doc:"What stands before the last segment of the permission"`
		ID         string         `json:"id" minLength:"1" maxLength:"255"`
		Properties map[string]any `json:"properties,omitempty" doc:"Over those that are registered, key by key, in conditions"`
	}
	inDoc struct {
		_        struct{}       `additionalProperties:"true"`
		Subject  subjectDoc     `json:"subject"`
		Action   actionDoc      `json:"action"`
		Resource resourceDoc    `json:"resource"`
		Context  map[string]any `json:"context,omitempty" doc:"What else conditions read. Its customer says whose member the subject is; else that is the key's own customer, or the only one that it can be"`
	}
	outDoc struct {
		Decision bool        `json:"decision"`
		Context  *contextDoc `json:"context,omitempty" doc:"Why; absent with Usher-Context: none"`
	}
	contextDoc struct {
		Reason   usher.Reason `json:"reason,omitempty"`
		Legs     *usher.Legs  `json:"legs,omitempty" doc:"pass, fail, or none where it was not asked"`
		Feature  string       `json:"feature,omitempty" doc:"Of the plan, that decided"`
		Plan     string       `json:"plan,omitempty"`
		Degraded bool         `json:"degraded,omitempty"`
		Revision int64        `json:"revision,omitempty"`
		Error    *errorDoc    `json:"error,omitempty" doc:"Of an item of a batch that is no question"`
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
		Subject     *subjectDoc    `json:"subject,omitempty" doc:"Of the items that have none, whole"`
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

const about = "OpenID AuthZEN Authorization API 1.0. A decision that says no is a 200. What is not known in a request is ignored. "

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
		ID: "authzenConfiguration", Tag: "AuthZEN", Summary: "Where what of AuthZEN is", Response: metadataDoc{},
		Answer: `{"policy_decision_point":"https://usher.example.com","access_evaluation_endpoint":"https://usher.example.com/access/v1/evaluation",
			"access_evaluations_endpoint":"https://usher.example.com/access/v1/evaluations","search_subject_endpoint":"https://usher.example.com/access/v1/search/subject",
			"search_resource_endpoint":"https://usher.example.com/access/v1/search/resource","search_action_endpoint":"https://usher.example.com/access/v1/search/action",
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
		Text: about + "At most 1,000, answered in order; an item that is no question is a no with an error in its context. Without items it " +
			"is one evaluation.",
		Request: batchInDoc{}, Response: batchOutDoc{}, Params: contextHeader,
		Example: `{"subject":{"type":"user","id":"ann"},"resource":{"type":"report","id":"q1"},"context":{"customer":"acme"},
			"evaluations":[{"action":{"name":"read"}},{"action":{"name":"export"}}]}`,
		Answer: `{"evaluations":[{"decision":true,"context":{"reason":"granted","legs":{"role":"pass","plan":"pass","seat":"none",
			"limit":"none","condition":"none"},"revision":17}},{"decision":false,"context":{"reason":"no_role","legs":{
			"role":"fail","plan":"none","seat":"none","limit":"none","condition":"none"},"revision":17}}]}`}, a.evaluations)
	a.searchRoutes(d)
}

// configuration names addresses by Config.PublicURL: a Host header is
// whatever a caller says.
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

// entity is a subject, an action (whose name is the id) or a resource.
type entity struct {
	there      bool
	kind, id   string
	properties map[string]any
}

// evaluation is one question as it is asked.
type evaluation struct {
	subject, action, resource entity
	context                   map[string]any // nil: not there
}

// Where things are, relative to the question. A place is joined with its front
// only where something is wrong there.
type entityPlaces struct{ self, kind, id, properties string }

var (
	subjectPlaces  = &entityPlaces{"subject", "subject.type", "subject.id", "subject.properties"}
	actionPlaces   = &entityPlaces{"action", "", "action.name", "action.properties"}
	resourcePlaces = &entityPlaces{"resource", "resource.type", "resource.id", "resource.properties"}
)

// member reads a member of a question; false where it is none.
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

// needs notes what of an entity is not there.
func (e *entity) needs(r *door.Reader, at *entityPlaces, id bool) {
	switch {
	case !e.there:
		r.Note(at.self, "must be there")
	default:
		if at.kind != "" {
			r.ID(at.kind, e.kind)
		}
		if id {
			r.ID(at.id, e.id)
		}
	}
}

// customer is the one that the context names; "" where it names none.
func (e *evaluation) customer(r *door.Reader) string {
	v, ok := e.context["customer"]
	if !ok {
		return ""
	}
	s, ok := v.(string)
	if !ok {
		r.Note("context.customer", "must be a string: the customer whose member the subject is")
		return ""
	}
	r.ID("context.customer", s)
	return s
}

// permission is the key of what the action does to the resource. An action has
// no dot: the permission a.b.c is the action c on a.b, and never b.c on a (A10).
// No key has a slash, so that such a question finds none.
func (e *evaluation) permission() string {
	if strings.Contains(e.action.id, ".") {
		return e.resource.kind + "/" + e.action.id
	}
	return e.resource.kind + "." + e.action.id
}

// said is what the question says about those in it, where the key may say so.
func (e *evaluation) said(c *door.Call) *access.Said {
	if !c.Properties || e.subject.properties == nil && e.action.properties == nil && e.resource.properties == nil && e.context == nil {
		return nil
	}
	return &access.Said{Subject: e.subject.properties, Action: e.action.properties, Resource: e.resource.properties, Context: e.context}
}

// customerOf is the customer that a question is about; "" where nobody can tell.
func (a *service) customerOf(ctx context.Context, c *door.Call, named, member string, resource decide.ResourceRef) (id string, err error) {
	if id = cmp.Or(named, c.Customer); id == "" {
		id, err = a.Decide.CustomerOf(ctx, c.Env, member, resource)
	}
	c.About = id
	return id, err
}

// another reports whether a customer's member is of another type than the
// subject that is asked about, which is then somebody else, and unknown.
func (a *service) another(ctx context.Context, c *door.Call, customer string, subject *entity) (bool, error) {
	m, err := a.Live.Member(ctx, c.Env, customer, subject.id, a.Live.Now(c.Env))
	if err != nil {
		if usher.ErrorCode(err) == usher.Unavailable {
			return false, nil // the decision says so itself
		}
		return false, err
	}
	return m.Member != nil && m.Member.Type != subject.kind, nil
}

// ask makes a question of usher's. ok is false where no customer is known.
func (a *service) ask(ctx context.Context, c *door.Call, e *evaluation, named string) (q decide.CheckQuery, ok bool, err error) {
	resource := decide.ResourceRef{Type: e.resource.kind, ID: e.resource.id}
	q = decide.CheckQuery{Member: e.subject.id, Permission: e.permission(), Resource: resource, Said: e.said(c)}
	if q.Customer, err = a.customerOf(ctx, c, named, q.Member, q.Resource); err != nil || q.Customer == "" {
		return q, false, err
	}
	another, err := a.another(ctx, c, q.Customer, &e.subject)
	if another {
		q.Member = "" // nobody
	}
	return q, true, err
}

// nobody is the answer where no customer is known.
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

// single answers one question that has been read.
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

// check notes what is not there of a whole question, and returns the customer
// that it names.
func (e *evaluation) check(r *door.Reader) string {
	if r.Broken() || len(r.Problems) > 0 {
		return ""
	}
	e.subject.needs(r, subjectPlaces, true)
	e.action.needs(r, actionPlaces, true)
	e.resource.needs(r, resourcePlaces, true)
	return e.customer(r)
}

// read reads the body and whether the caller wants to hear why.
func read(r *http.Request, c *door.Call, s *door.Scratch) (full bool, err error) {
	s.In, err = c.ReadAll(r, s.In)
	if usher.ErrorCode(err) == usher.UnsupportedMedia { // 400 is the protocol's
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
	return false, door.Invalid("header.Usher-Context", "must be full or none, once")
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
	wrong    string // what is wrong with it; "": nothing
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
		if yes := it.decision.Allowed; semantic == denyOnFirstDeny && !yes || semantic == permitOnFirstPermit && yes {
			break
		}
	}
	s.Out = append(b, `]}`...)
	c.Write(w, s.Out)
}

// readEvaluations reads a batch. What is wrong with an item stays with it.
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
	if n > 10 { // note keeps no more than a few; the request is refused anyway
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

// take makes the problems from the nth on the item's.
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

// answerItems decides every item that is a question, at one revision and one
// instant. What an item does not have, it has of the defaults, whole.
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

// appendDecision appends a decision, and with full why.
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
