package api

import (
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
	"github.com/usher-sh/usher/internal/usage"
)

type usageOut struct {
	Data []usagePointDoc `json:"data"`
}

type usagePointDoc struct {
	Start time.Time         `json:"start"`
	End   time.Time         `json:"end"`
	Value int64             `json:"value" quantity:"true"`
	Group map[string]string `json:"group,omitempty"`
}

// usageRoutes registers what was used, per window and group, from the same rows
// that the limits are decided on, so that a report and an answer never differ.
func (a *api) usageRoutes(d *door.Door) {
	d.Handle(door.Route{Pattern: "GET /v1/usage", Perm: auth.PermUsageRead,
		ID: "queryUsage", Tag: "Use", Summary: "What a customer used of a feature, in windows",
		Text: "Over [from, to). Empty windows are left out; days and months are those of the customer's zone.", Response: usageOut{},
		Params: []*huma.Param{
			{Name: "customer", In: "query", Required: true, Schema: &huma.Schema{Type: huma.TypeString}},
			{Name: "feature", In: "query", Required: true, Schema: &huma.Schema{Type: huma.TypeString}},
			{Name: "from", In: "query", Required: true, Schema: &huma.Schema{Type: huma.TypeString, Format: "date-time"}},
			{Name: "to", In: "query", Required: true, Schema: &huma.Schema{Type: huma.TypeString, Format: "date-time"}},
			{Name: "window", In: "query", Required: true, Schema: &huma.Schema{Type: huma.TypeString,
				Enum: []any{"minute", "hour", "day", "month"}}},
			{Name: "group_by", In: "query", Description: "A dimension of the feature's meter", Schema: &huma.Schema{Type: huma.TypeString}},
		},
		Answer: `{"data":[{"start":"2026-03-10T00:00:00Z","end":"2026-03-11T00:00:00Z","value":7,"group":{
			"data.model":"large"}}]}`}, a.usage)
}

func (a *api) usage(w http.ResponseWriter, r *http.Request, c *door.Call) {
	q, err := readUsage(r)
	if err != nil {
		c.Fail(w, err)
		return
	}
	points, err := a.Usage.Query(r.Context(), c.Env, q)
	if err != nil {
		c.Fail(w, err)
		return
	}
	type point struct {
		Start time.Time         `json:"start"`
		End   time.Time         `json:"end"`
		Value rawJSON           `json:"value"`
		Group map[string]string `json:"group,omitempty"`
	}
	out := struct {
		Data []point `json:"data"`
	}{make([]point, 0, len(points))}
	for _, p := range points {
		out.Data = append(out.Data, point{p.Start.UTC(), p.End.UTC(), usher.AppendQuantity(nil, p.Value, p.Precision), p.Group})
	}
	body, err := door.Marshal(out)
	if err != nil {
		c.Fail(w, err)
		return
	}
	c.Write(w, body)
}

// rawJSON is a part that is JSON already.
type rawJSON []byte

// MarshalJSON is the part itself.
func (j rawJSON) MarshalJSON() ([]byte, error) { return j, nil }

func readUsage(r *http.Request) (q usage.UsageQuery, err error) {
	known := []string{"customer", "feature", "from", "to", "window", "group_by"}
	p, err := door.Parameters(r, known...)
	if err != nil {
		return q, err
	}
	span, err := spanOf(p, known[:5])
	q = usage.UsageQuery{Customer: p["customer"], Feature: p["feature"], From: span["from"], To: span["to"], Window: usher.Unit(p["window"]),
		GroupBy: p["group_by"]}
	return q, err
}

// spanOf reads from and to, and notes each required parameter that is missing.
func spanOf(p map[string]string, required []string) (map[string]time.Time, error) {
	var wrong []usher.Problem
	for _, name := range required {
		if p[name] == "" {
			wrong = append(wrong, usher.Problem{Location: "query." + name, Message: "is required"})
		}
	}
	at := make(map[string]time.Time, 2)
	for _, name := range []string{"from", "to"} {
		if p[name] == "" {
			continue
		}
		t, err := usher.ParseTime(p[name])
		if err != nil {
			wrong = append(wrong, usher.Problem{Location: "query." + name, Message: err.Error()})
		}
		at[name] = t
	}
	if len(wrong) > 0 {
		return nil, door.Invalids(wrong)
	}
	return at, nil
}
