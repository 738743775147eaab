package auth

import (
	"context"

	"github.com/usher-sh/usher"
	"github.com/usher-sh/usher/internal/audit"
)

// Audit reads up to limit rows of the audit log that the caller may see, newest
// first: those of the caller's environment, and for a caller in production those of
// the installation too (operators, sessions, the log's own key). q.Envs is ignored.
func (s *Service) Audit(ctx context.Context, who *Identity, q usher.AuditQuery, limit int) ([]audit.Entry, error) {
	q.Envs = []usher.Environment{who.Env}
	if who.Env == usher.Production {
		q.Envs = append(q.Envs, "")
	}
	return s.c.DB.Audit(ctx, q, limit)
}

// AuditHead reads the end of the audit log; the zero AuditHead if it is empty.
func (s *Service) AuditHead(ctx context.Context) (usher.AuditHead, error) {
	return s.c.DB.AuditHead(ctx)
}
