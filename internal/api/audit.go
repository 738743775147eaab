package api

import (
	"context"
	"strconv"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
	"github.com/usher-sh/usher/internal/auth"
	"github.com/usher-sh/usher/internal/door"
)

type auditIn struct {
	Actor    string `query:"actor" doc:"The actor: key:…, operator:…, system or cli"`
	Action   string `query:"action" doc:"The action; if it ends in a dot (grant.), all actions that begin with it"`
	Customer string `query:"customer"`
	Object   string `query:"object" doc:"The id or key of what was changed"`
	From     string `query:"from" format:"date-time" doc:"At or after, by the server's time"`
	To       string `query:"to" format:"date-time" doc:"Before"`
	Limit    int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor   string `query:"cursor" doc:"The next_cursor of the page before"`
}

type checkpointOut struct {
	Body struct {
		Size       int64  `json:"size" doc:"How many rows the log has; 0: none yet, and nothing is signed"`
		Checkpoint string `json:"checkpoint" doc:"Signed: the size and the hash of all rows. Keep it to find out later whether the log was rolled back"`
	}
}

type auditKeyOut struct {
	Body struct {
		Key string `json:"key" doc:"The public key for checkpoints and exports; empty while the log is empty"`
	}
}

// auditRoutes registers the audit log, which answers "who changed this, when
// and why" for support, security and auditors. A caller sees the rows of its
// own environment; rows about the installation (operators, keys of other
// environments) need a right of their own. The head and the public key let a
// reader prove that no row was changed or left out.
func (a *api) auditRoutes(d *door.Door) {
	door.Register(d, door.Route{Pattern: "GET /v1/audit", Perm: auth.PermAuditRead,
		ID: "listAudit", Tag: "Audit", Summary: "The audit log, newest first",
		Text: "Every management write of this environment: who, when, what, why. A key of production sees the rows of the installation too: " +
			"operators, sessions, the log's own key.",
		Answer: `{"data":[{"n":19,"at":"2026-03-10T12:00:00Z","clock":"2026-03-10T12:00:00Z","env":"production",
			"actor":"key:key_0pgp1jbeml64gssk02rrp3n4to",
			"action":"customer.put","customer":"acme","object":"acme","after":{"customer":{"anchor":"2026-03-10T12:00:00Z",
			"changed":["name"]}},"revision":18,"request_id":"req_0pgp1mru090qmd8ktu5hb5mf1g"}]}`}, a.listAudit)
	door.Register(d, door.Route{Pattern: "GET /v1/audit/checkpoint", Perm: auth.PermAuditRead,
		ID: "getAuditCheckpoint", Tag: "Audit", Summary: "The newest signed checkpoint of the audit log",
		Answer: `{"size":243,
			"checkpoint":"usher-audit\n243\nbR8mg/SKWBCVf8IdEH6hu/tFWJTm6p8sW1Z+m0yKGGc=\n\n— usher-audit cTwSlZOJdxBvDaOwfPcKDoYVKhzS3npxMkdUj/` +
			`hT5noWV1SSj5DTVFmwjbZxd+DPjEQuwHYTQPmn+6ypnluq9s9PAgM=\n"}`}, a.getCheckpoint)
	door.Register(d, door.Route{Pattern: "GET /v1/audit/key", Perm: auth.PermAuditRead,
		ID: "getAuditKey", Tag: "Audit", Summary: "The public key of the audit log",
		Answer: `{"key":"usher-audit+713c1295+AeYlYpbZfInPvUnybbNSAyCAOX+e5D/f3Y77pTfYlZYZ"}`}, a.getAuditKey)
}

func (a *api) listAudit(ctx context.Context, c *door.Call, in *auditIn) (*door.ListOut[audit.Entry], error) {
	q := usher.AuditQuery{Actor: in.Actor, Action: in.Action, Customer: in.Customer, Object: in.Object}
	from, err := door.When("query.from", in.From)
	if err != nil {
		return nil, err
	}
	if from != nil {
		q.From = *from
	}
	to, err := door.When("query.to", in.To)
	if err != nil {
		return nil, err
	}
	if to != nil {
		q.To = *to
	}
	if in.Cursor != "" {
		before, err := door.Cursor(in.Cursor)
		if err == nil {
			q.Before, err = strconv.ParseInt(before, 10, 64)
		}
		if err != nil || q.Before < 1 {
			return nil, door.Invalid("query.cursor", "must be the next_cursor of an answer")
		}
	}
	rows, err := a.Auth.Audit(ctx, &c.Identity, q, in.Limit+1)
	if err != nil {
		return nil, err
	}
	next := ""
	if len(rows) > in.Limit {
		rows = rows[:in.Limit]
		next = strconv.FormatInt(rows[in.Limit-1].N, 10)
	}
	return door.Listed(rows, next), nil
}

func (a *api) getCheckpoint(ctx context.Context, _ *door.Call, _ *struct{}) (*checkpointOut, error) {
	head, err := a.Auth.AuditHead(ctx)
	out := &checkpointOut{}
	out.Body.Size, out.Body.Checkpoint = head.Size, head.Note
	return out, err
}

func (a *api) getAuditKey(ctx context.Context, _ *door.Call, _ *struct{}) (*auditKeyOut, error) {
	head, err := a.Auth.AuditHead(ctx)
	out := &auditKeyOut{}
	out.Body.Key = head.Key
	return out, err
}
