package ledger

import (
	"encoding/hex"
	"reflect"
	"testing"
	"time"

	"github.com/usher-sh/usher"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func taken() *usher.Decision {
	return &usher.Decision{Allowed: true, Reason: usher.WithinLimit, Kind: usher.Metered, Counted: true, Limit: 100, Used: 10, Remaining: 90,
		Window: &usher.Window{Start: noon.AddDate(0, 0, -1), End: noon.AddDate(0, 1, 0)}, Plan: usher.Ref{Key: "pro", Version: 1},
		Taken: true, Consumed: 10, Deductions: []usher.Deduction{{Allowance: "plan:pro@1", Amount: 10}}, Revision: 7}
}

// TestStoredFormStays: what was stored once is read for ever, so no field's
// number ever changes.
func TestStoredFormStays(t *testing.T) {
	t.Parallel()
	const stored = "030101020c77697468696e5f6c696d697408076d6574657265640b010370726f0202000f0111c801121414b401170180c0bdfda2f8a5" +
		"060280c09dac9a99a706001a141b02010a706c616e3a70726f40310414001c01230e0000000000"
	b, err := hex.DecodeString(stored)
	if err != nil {
		t.Fatal(err)
	}
	d, p, err := DecodeAnswer(b, noon)
	if err != nil || !reflect.DeepEqual(&d, taken()) || !p.At.Equal(noon) {
		t.Errorf("got %+v, %+v, %v", d, p, err)
	}
	if got := hex.EncodeToString(EncodeAnswer(taken(), &Posting{At: noon}, noon)); got != stored {
		t.Errorf("got %s\nwant %s", got, stored)
	}
	for n := range b {
		if _, _, err := DecodeAnswer(b[:n], noon); err == nil {
			t.Errorf("the first %d of %d bytes are read as a whole answer", n, len(b))
		}
	}
	unknown := append([]byte{b[0], 127}, b[1:]...)
	if _, _, err := DecodeAnswer(unknown, noon); err == nil {
		t.Error("a field that nobody knows is read over")
	}
}

func BenchmarkAnswer(b *testing.B) {
	d, p := taken(), &Posting{At: noon}
	b.ReportAllocs()
	for b.Loop() {
		EncodeAnswer(d, p, noon)
	}
}

func BenchmarkAnswerRead(b *testing.B) {
	x := EncodeAnswer(taken(), &Posting{At: noon}, noon)
	b.ReportAllocs()
	for b.Loop() {
		DecodeAnswer(x, noon)
	}
}
