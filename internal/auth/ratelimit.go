package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// What failed attempts cost: the first freeTries nothing, then a wait of
// firstWait that doubles with each further one, up to maxWait. forgetAfter
// without a failure is a clean slate.
const (
	freeTries   = 5
	firstWait   = time.Second
	maxWait     = 15 * time.Minute
	forgetAfter = time.Hour
)

// slots is how many counters there are. Names share them by a hash that is keyed
// by the process: memory is bounded, and no crowd of made-up names pushes out
// the counter of a real one. Two names that share one wait for each other.
const slots = 1 << 14

// counters counts failures by name.
type counters struct {
	mu    sync.Mutex
	seed  [16]byte
	slots [slots]failures
}

type failures struct {
	n     int32
	until time.Time // no attempt counts before
	last  time.Time
}

func newCounters(random io.Reader) *counters {
	c := new(counters)
	if random == nil {
		random = rand.Reader
	}
	io.ReadFull(random, c.seed[:])
	return c
}

func (c *counters) slot(name string) *failures {
	sum := sha256.Sum256(append(c.seed[:], name...))
	return &c.slots[binary.BigEndian.Uint32(sum[:])%slots]
}

// wait is how long name must wait before an attempt of its counts.
func (c *counters) wait(name string, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.slot(name).until.Sub(now), 0)
}

// failed notes a failure and returns how many there were, and how long the next
// attempt must wait, after free ones that cost nothing.
func (c *counters) failed(name string, free int32, now time.Time) (n int32, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.slot(name)
	if now.Sub(f.last) >= forgetAfter {
		*f = failures{}
	}
	f.n++
	f.last = now
	if f.n >= free {
		wait = maxWait
		if k := f.n - free; k < 10 {
			wait = min(firstWait<<k, maxWait)
		}
		f.until = now.Add(wait)
	}
	return f.n, wait
}

// succeeded is a clean slate; it returns how many failures there were.
func (c *counters) succeeded(name string) int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.slot(name)
	n := f.n
	*f = failures{}
	return n
}

// uncount takes one failure back, and leaves the wait as it is: others may have
// earned it.
func (c *counters) uncount(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.slot(name); f.n > 0 {
		f.n--
	}
}

// forgive takes one failure back, and the wait.
func (c *counters) forgive(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.slot(name); f.n > 0 {
		f.n--
		f.until = time.Time{}
	}
}

// block is what an address counts as: itself, or the /64 that one subscriber of
// IPv6 has.
func block(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		if ap, err := netip.ParseAddrPort(address); err == nil {
			a = ap.Addr()
		} else {
			return "" // all that is not understood is one
		}
	}
	a = a.Unmap().WithZone("")
	if a.Is6() {
		p, _ := a.Prefix(64)
		return p.String()
	}
	return a.String()
}

// Wrong keys by address: strangersBurst at once, then strangersPerMinute.
const (
	strangersBurst     = 20
	strangersPerMinute = 20
)

// strangers bounds what unauthenticated callers may fail at, by address, in as
// little memory as counters.
type strangers struct {
	mu    sync.Mutex
	seed  [16]byte
	slots [slots]struct {
		at   time.Time // when left was counted
		left float64
	}
}

func newStrangers(random io.Reader) *strangers {
	s := new(strangers)
	if random == nil {
		random = rand.Reader
	}
	io.ReadFull(random, s.seed[:])
	return s
}

// Stranger counts one failed authentication from an address and returns 0, or
// how long that address must wait until a failure is told again.
func (s *Service) Stranger(address string) (wait time.Duration) {
	return s.strangers.take(block(address), s.c.Now())
}

func (s *strangers) take(name string, now time.Time) (wait time.Duration) {
	sum := sha256.Sum256(append(s.seed[:], name...))
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := &s.slots[binary.BigEndian.Uint32(sum[:])%slots]
	if slot.at.IsZero() || now.Before(slot.at) {
		slot.at, slot.left = now, strangersBurst
	}
	slot.left = min(slot.left+now.Sub(slot.at).Minutes()*strangersPerMinute, strangersBurst)
	slot.at = now
	if slot.left < 1 {
		return time.Duration((1 - slot.left) / strangersPerMinute * float64(time.Minute))
	}
	slot.left--
	return 0
}

// Limited is where a key stands with its rate limit.
type Limited struct {
	PerSecond float64       // calls
	Burst     int           // calls at once
	Left      int           // calls that may follow at once
	Wait      time.Duration // 0: this call may go on; else when the next one may
}

// limiters are the rate limits of keys. Only keys that have one are in it, so
// that it is bounded by the keys that there are; unknown ids never come here.
type limiters struct {
	mu sync.RWMutex
	by map[string]*limiter
}

type limiter struct {
	*rate.Limiter
	perSecond float64
	burst     int
}

// take counts one call of a key.
func (l *limiters) take(id string, perSecond float64, burst int, now time.Time) Limited {
	burst = max(burst, 1)
	l.mu.RLock()
	k := l.by[id]
	l.mu.RUnlock()
	if k == nil || k.perSecond != perSecond || k.burst != burst {
		l.mu.Lock()
		if k = l.by[id]; k == nil || k.perSecond != perSecond || k.burst != burst {
			if l.by == nil || len(l.by) >= maxKnown {
				l.by = map[string]*limiter{}
			}
			k = &limiter{rate.NewLimiter(rate.Limit(perSecond), burst), perSecond, burst}
			l.by[id] = k
		}
		l.mu.Unlock()
	}
	out := Limited{PerSecond: perSecond, Burst: burst}
	if k.AllowN(now, 1) {
		out.Left = max(int(k.TokensAt(now)), 0)
		return out
	}
	out.Wait = max(time.Duration((1-k.TokensAt(now))/perSecond*float64(time.Second)), time.Millisecond)
	return out
}

// Limit counts a call of a key against its rate limit, or the server's own. ok
// is false where neither bounds it; sessions are never bounded.
func (s *Service) Limit(i *Identity) (l Limited, ok bool) {
	perSecond, burst := float64(i.Rate.PerSecond), int(i.Rate.Burst)
	if perSecond == 0 {
		perSecond = s.c.RateLimit
	}
	if perSecond <= 0 || i.Actor.Kind != "key" {
		return l, false
	}
	if burst == 0 {
		burst = int(math.Ceil(perSecond))
	}
	return s.limiters.take(i.Actor.ID, perSecond, burst, s.c.Now()), true
}
