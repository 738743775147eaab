package engine

import (
	"math"
	"testing"

	"github.com/usher-sh/usher"
)

const most, least = math.MaxInt64, math.MinInt64

// TestS24_ArithmeticStopsAtTheBounds: sums and products stop at the bounds of
// int64 instead of wrapping.
func TestS24_ArithmeticStopsAtTheBounds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ x, y, sum int64 }{
		{1, 2, 3}, {most, 1, most}, {most, most, most}, {least, -1, least}, {least, least, least}, {least, most, -1}, {-5, 5, 0},
	} {
		if got := satAdd(c.x, c.y); got != c.sum {
			t.Errorf("satAdd(%d, %d) = %d, want %d", c.x, c.y, got, c.sum)
		}
	}
	for _, c := range []struct{ x, n, product int64 }{
		{3, 4, 12}, {0, most, 0}, {most, 0, 0}, {most, 1, most}, {most, 2, most}, {least, 1, least}, {least, 2, least}, {-3, 4, -12},
	} {
		if got := satMul(c.x, c.n); got != c.product {
			t.Errorf("satMul(%d, %d) = %d, want %d", c.x, c.n, got, c.product)
		}
	}
}

// TestS03_AddLowersInOrder: a negative add lowers slots in order, none below 0,
// whatever its size; an unlimited slot stays unlimited.
func TestS03_AddLowersInOrder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ add, first, second int64 }{
		{7, 17, 20}, {-4, 6, 20}, {-15, 0, 15}, {-99, 0, 0}, {least, 0, 0}, {most, most, 20},
	} {
		slots := []slot{{unlimited: true}, {limit: 10}, {limit: 20}}
		if !applyAdd(slots, c.add) || slots[0].limit != 0 || slots[1].limit != c.first || slots[2].limit != c.second {
			t.Errorf("add %d: got limits %d and %d, want %d and %d", c.add, slots[1].limit, slots[2].limit, c.first, c.second)
		}
	}
	if applyAdd([]slot{{unlimited: true}}, 5) {
		t.Error("an add to unlimited slots alone reports that it was used")
	}
}

// TestS14_SettleDividesWhatIsHeld: what is held is divided over the limit,
// permitted overage and excess, and nothing of it is lost.
func TestS14_SettleDividesWhatIsHeld(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		limit, used, reserved, permitted          int64
		wantRemaining, wantOver, wantEx, wantRoom int64
	}{
		{10, 4, 3, 0, 3, 0, 0, 0},
		{10, 4, 6, 5, 0, 0, 0, 5},
		{10, 12, 1, 5, 0, 3, 0, 2},
		{10, 12, 8, 5, 0, 5, 5, 0},
		{most, 5, 0, most, most - 5, 0, 0, 0}, // no room that could not be counted
		{10, most, most, most, 0, most - 10, 0, 0},
	} {
		n := figures{limit: c.limit, used: c.used, reserved: c.reserved}
		n.settle(usher.Overage{Max: c.permitted})
		if n.remaining != c.wantRemaining || n.overage != c.wantOver || n.excess != c.wantEx || n.room != c.wantRoom {
			t.Errorf("%+v: got remaining %d, overage %d, excess %d, room %d", c, n.remaining, n.overage, n.excess, n.room)
		}
	}
}
