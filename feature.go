package usher

// Kind is what sort of thing a feature is.
type Kind string

// The kinds of features.
const (
	Switch  Kind = "switch"  // on or off
	Config  Kind = "config"  // a typed value
	Metered Kind = "metered" // a quantity used up
	Seats   Kind = "seats"   // held by named holders
	Credits Kind = "credits" // a pool that metered features draw from
)

// Kinds lists every kind.
var Kinds = []Kind{Switch, Config, Metered, Seats, Credits}

// Counts reports whether the kind has amounts: limits, use, what is left.
func (k Kind) Counts() bool { return k == Metered || k == Seats || k == Credits }

// ConfigType is the type of a config feature's value.
type ConfigType string

// The types of config values.
const (
	TypeInteger ConfigType = "integer" // int64
	TypeDecimal ConfigType = "decimal" // a fixed-point number with the feature's precision
	TypeString  ConfigType = "string"
	TypeEnum    ConfigType = "enum" // one of Feature.Values, low to high
	TypeList    ConfigType = "list" // a set of strings
)

// ConfigTypes lists every config type.
var ConfigTypes = []ConfigType{TypeInteger, TypeDecimal, TypeString, TypeEnum, TypeList}

// Combine is the rule that makes one config value of several sources (S04).
type Combine string

// The rules. CombineOverride takes the value of the most specific source:
// override, then add-on, then plan; among equals the one that began last.
const (
	CombineMax      Combine = "max"
	CombineMin      Combine = "min"
	CombineSum      Combine = "sum"
	CombineUnion    Combine = "union"
	CombineOverride Combine = "override"
)

// Mode says how hard limits, caps, credits and seats are (S26).
type Mode string

// The modes, strictest first.
const (
	Enforce Mode = "enforce"
	Warn    Mode = "warn"   // allow, mark, alert
	Shadow  Mode = "shadow" // allow, record what would have been denied
)

// Fail says what a check answers while the server cannot decide.
type Fail string

// The failure policies, strictest first.
const (
	FailClosed Fail = "closed"
	FailOpen   Fail = "open"
)

// OnChange says what happens to the use of the current window when the plan
// changes (S18).
type OnChange string

// The policies of a plan change.
const (
	Carry OnChange = "carry"
	Reset OnChange = "reset"
)

// Feature is one thing a customer may have.
type Feature struct {
	Key       string     `json:"key"`
	Kind      Kind       `json:"kind"`
	Title     string     `json:"title,omitempty"`
	Unit      string     `json:"unit,omitempty"`
	Meter     string     `json:"meter,omitempty"`     // metered only; "" counts consumes only
	Precision int        `json:"precision,omitempty"` // digits after the point, 0 to MaxPrecision
	Type      ConfigType `json:"type,omitempty"`      // config only
	Values    []string   `json:"values,omitempty"`    // enum only, low to high
	Combine   Combine    `json:"combine,omitempty"`   // config only; never empty once parsed
	Draws     *Draws     `json:"draws,omitempty"`     // metered only
	Mode      Mode       `json:"mode,omitempty"`      // "" is Enforce
	Fail      Fail       `json:"fail,omitempty"`      // "" is FailClosed
	OnChange  OnChange   `json:"on_change,omitempty"` // "" is Carry
}

// Draws makes a metered feature take credits (S25).
type Draws struct {
	Credits string `json:"credits"`  // the pool: a feature of kind credits
	PerUnit Number `json:"per_unit"` // credits for one whole unit of the feature
	// Rate is the pool's smallest units for one smallest unit of the feature:
	// PerUnit × 10^(pool precision) / 10^(feature precision), whole by S25.
	Rate int64 `json:"rate"`
}

// Aggregation is how events become a quantity.
type Aggregation string

// The aggregations.
const (
	Count  Aggregation = "count"
	Sum    Aggregation = "sum"
	Max    Aggregation = "max"
	Last   Aggregation = "last"
	Unique Aggregation = "unique"
)

// Adds reports whether quantities add up, so that they can be consumed (S33).
func (a Aggregation) Adds() bool { return a == Count || a == Sum }

// Meter is how events become a quantity.
type Meter struct {
	Key         string              `json:"key"`
	Title       string              `json:"title,omitempty"`
	Event       string              `json:"event"` // the CloudEvents type it reads
	Aggregation Aggregation         `json:"aggregation"`
	Field       string              `json:"field,omitempty"`      // "data.tokens"; "" for Count
	Where       map[string][]string `json:"where,omitempty"`      // path → accepted values, all paths must match
	Dimensions  []string            `json:"dimensions,omitempty"` // paths that group_by may name
}
