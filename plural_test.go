package usher

import "testing"

// TestCountOf: one is one, and nothing else is.
func TestCountOf(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]string{
		"1 seat": CountOf(1, "seat"), "0 seats": CountOf(0, "seat"), "2 seats": CountOf(int64(2), "seat"),
		"1 entry": CountOf(1, "entry"), "2 entries": CountOf(2, "entry"), "2 keys": CountOf(2, "key"), "3 add-ons": CountOf(3, "add-on"),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
