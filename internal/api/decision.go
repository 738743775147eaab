package api

import "github.com/usher-sh/usher"

// explanationDoc is the shape of an explanation, for the document only.
type explanationDoc struct {
	usher.Decision
	Considered []usher.SourceTrace     `json:"considered" doc:"Each source that was considered"`
	Changes    []usher.WhatWouldChange `json:"would_change" doc:"What would change the answer"`
	Access     *usher.AccessTrace      `json:"access,omitempty" doc:"Each assignment that was considered, and the roles that give the permission. Only for a member's permission"`
}
