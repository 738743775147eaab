package engine

// BucketKey names one bucket of a customer: a feature, the clock that its
// windows follow, and the window's start.
type BucketKey struct {
	Feature string
	Clock   string // a name that the engine makes: one per distinct period and anchor, one per grant (S34)
	Start   int64  // microseconds since 1970 UTC
}

// Bucket is what is used of one clock of one feature in one window. Quantities
// are in smallest units and never negative.
type Bucket struct {
	BucketKey
	End       int64 // microseconds since 1970 UTC, exclusive; math.MaxInt64 is open
	Unlimited bool
	Limit     int64 // 0 where Unlimited
	Opening   int64 // use that was carried in when the window opened (S18, S34)
	Used      int64 // includes Overage and Excess
	Reserved  int64
	Overage   int64
	Excess    int64
	At        int64 // event time of the last gauge value in microseconds; 0: none
}

// ClockNone is the clock of use that nothing entitles (S14).
const ClockNone = "none"
