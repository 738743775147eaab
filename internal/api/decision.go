package api

import (
	"time"

	"github.com/usher-sh/usher"
)

// decisionDoc is the shape of a decision, for the document only.
type decisionDoc struct {
	Allowed    bool           `json:"allowed"`
	Reason     string         `json:"reason" doc:"Why; one of a fixed list"`
	Customer   string         `json:"customer"`
	Feature    string         `json:"feature,omitempty" doc:"Whose numbers these are; absent where a permission names none, or several"`
	Member     string         `json:"member,omitempty"`
	Permission string         `json:"permission,omitempty"`
	Legs       *usher.Legs    `json:"legs,omitempty" doc:"Of a decision about a member: pass, fail, or none where it was not asked"`
	Kind       string         `json:"kind,omitempty" enum:"switch,config,metered,seats,credits"`
	Value      any            `json:"value,omitempty" doc:"Of a config feature"`
	Limit      usher.Number   `json:"limit,omitempty" doc:"The total of what counts now; absent where unlimited"`
	Used       usher.Number   `json:"used,omitempty"`
	Reserved   usher.Number   `json:"reserved,omitempty"`
	Remaining  usher.Number   `json:"remaining,omitempty" doc:"Never below 0; absent where unlimited"`
	Unlimited  bool           `json:"unlimited,omitempty"`
	Overage    usher.Number   `json:"overage,omitempty" doc:"The part of used that is beyond the limit and was permitted"`
	Excess     usher.Number   `json:"excess,omitempty" doc:"The part of used that is beyond what was permitted"`
	Window     *windowDoc     `json:"window,omitempty"`
	Plan       string         `json:"plan,omitempty" doc:"Where exactly one plan gives the feature"`
	Rule       string         `json:"rule,omitempty"`
	Sources    []string       `json:"sources,omitempty"`
	Allowances []allowanceDoc `json:"allowances,omitempty"`
	Caps       []capDoc       `json:"caps,omitempty"`
	Consumed   usher.Number   `json:"consumed,omitempty" doc:"Of a consume and a settlement"`
	Deductions []deductionDoc `json:"deductions,omitempty" doc:"Of a consume and a settlement: what it burned"`
	// Of the calls about them only.
	Reservation *reservationDoc `json:"reservation,omitempty" doc:"What is held, or how that ended"`
	Seat        *seatDoc        `json:"seat,omitempty" doc:"The holder's seat, where it has one"`
	Correction  *correctionDoc  `json:"correction,omitempty" doc:"What was given back"`
	Replayed    bool            `json:"replayed,omitempty" doc:"A stored answer"`
	Degraded    bool            `json:"degraded,omitempty" doc:"Answered without the state that decides"`
	AsOf        *time.Time      `json:"as_of,omitempty"`
	Revision    int64           `json:"revision"`
}

// Decided is decisionDoc under a name that huma looks into where it is embedded.
type Decided = decisionDoc

type windowDoc struct {
	Start *time.Time `json:"start,omitempty"`
	End   *time.Time `json:"end,omitempty"`
}

type allowanceDoc struct {
	Allowance string       `json:"allowance"`
	Sources   []string     `json:"sources,omitempty"`
	Limit     usher.Number `json:"limit,omitempty"`
	Used      usher.Number `json:"used"`
	Reserved  usher.Number `json:"reserved"`
	Remaining usher.Number `json:"remaining,omitempty"`
	Unlimited bool         `json:"unlimited,omitempty"`
	Overage   usher.Number `json:"overage"`
	Excess    usher.Number `json:"excess,omitempty"`
	Window    *windowDoc   `json:"window,omitempty"`
}

type capDoc struct {
	Cap       string       `json:"cap"`
	Per       any          `json:"per" doc:"A unit, or {every, unit}"`
	Sliding   bool         `json:"sliding,omitempty"`
	Limit     usher.Number `json:"limit"`
	Used      usher.Number `json:"used"`
	Remaining usher.Number `json:"remaining"`
	Window    *windowDoc   `json:"window,omitempty"`
}

type deductionDoc struct {
	Allowance string       `json:"allowance"`
	Feature   string       `json:"feature,omitempty"`
	Amount    usher.Number `json:"amount"`
}

type reservationDoc struct {
	ID        string       `json:"id"`
	Amount    usher.Number `json:"amount" doc:"Held"`
	ExpiresAt time.Time    `json:"expires_at"`
	State     string       `json:"state,omitempty" enum:"open,settled,released,expired" doc:"Absent of a decision: open"`
	Settled   usher.Number `json:"settled,omitempty" doc:"The true amount"`
	Late      bool         `json:"late,omitempty" doc:"Settled after it had expired"`
}

type correctionDoc struct {
	Ref      any            `json:"ref" doc:"The key of a take, or {source, id} of an event"`
	Amount   usher.Number   `json:"amount" doc:"Given back"`
	Left     usher.Number   `json:"left" doc:"What the take or the event still comes to"`
	Returned []deductionDoc `json:"returned" doc:"To which allowance"`
}

type explanationDoc struct {
	Decided
	Mode       string                  `json:"mode,omitempty"`
	Considered []usher.SourceTrace     `json:"considered"`
	Changes    []usher.WhatWouldChange `json:"would_change"`
	Access     *usher.AccessTrace      `json:"access,omitempty" doc:"Of a member's permission: each assignment that was considered, and the roles that give it"`
}
