package usher

import (
	"encoding/json"
	"time"
)

// Event is one reported use: a CloudEvents 1.0 event whose subject is the
// customer. Source and ID together name it: the same pair never means another
// event.
type Event struct {
	ID      string
	Source  string
	Type    string
	Subject string
	Time    time.Time       // zero: the moment of arrival (S17)
	Data    json.RawMessage // a JSON object, or nil
}

// IngestResult says what became of a batch of events.
type IngestResult struct {
	Accepted   int         `json:"accepted"`
	Duplicates int         `json:"duplicates"`
	Unmatched  int         `json:"unmatched,omitempty" doc:"How many of the accepted are of types that no meter reads. Absent: none"`
	Rejected   []Rejection `json:"rejected"`
}

// UnmatchedType is a type of events that were accepted although no meter read them.
type UnmatchedType struct {
	Type     string    `json:"type" doc:"The type of the events"`
	Count    int64     `json:"count" doc:"How many came"`
	LastSeen time.Time `json:"last_seen" doc:"When the newest came"`
	Source   string    `json:"source" doc:"The source of the newest"`
}

// Rejection is one event that was not recorded, and why. Index is its place in
// the batch, from 0.
type Rejection struct {
	Index   int    `json:"index"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// The codes of rejections (S17).
const (
	RejectInvalid         = "invalid"          // a required attribute is missing or malformed
	RejectUnknownCustomer = "unknown_customer" // no customer has the subject as its id
	RejectTooLate         = "too_late"         // older than the horizon
	RejectTooEarly        = "too_early"        // further ahead than the horizon
	RejectIDReused        = "id_reused"        // source and id came before with other content
	RejectInvalidValue    = "invalid_value"    // the metered value is missing, not a number, negative or too precise
	RejectOverflow        = "overflow"         // counting it would go beyond int64
)

// UsagePoint is the use of a feature in one window.
type UsagePoint struct {
	Start     time.Time
	End       time.Time
	Value     int64 // smallest units
	Precision int
	Group     map[string]string // dimension → value; nil without group_by
}
