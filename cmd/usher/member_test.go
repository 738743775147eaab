package main

import (
	"encoding/json"
	"testing"
)

// TestProperties: what looks like JSON is JSON, and everything else is a text,
// whatever stands in it.
func TestProperties(t *testing.T) {
	t.Parallel()
	got, err := properties("--property", []string{
		"level=3", "team=tax, and law", `langs=["en","fr"]`, "zip=01234", `code="7"`, "sum=a=b", "empty=", "on=true"})
	b, _ := json.Marshal(got)
	want := `{"code":"7","empty":"","langs":["en","fr"],"level":3,"on":true,"sum":"a=b","team":"tax, and law","zip":"01234"}`
	if err != nil || string(b) != want {
		t.Errorf("got %s, %v, want %s", b, err, want)
	}
	for _, bad := range []string{"", "x", "=x"} {
		if got, err := properties("--property", []string{bad}); err == nil {
			t.Errorf("%q: got %v, want it refused", bad, got)
		}
	}
}

// TestPathsOfNames: a name is one part of a path, whatever stands in it.
func TestPathsOfNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ customer, member, want string }{
		{"acme", "ann", "/v1/customers/acme/members/ann"},
		{"a/b", "x/../y?z#", "/v1/customers/a%2Fb/members/x%2F..%2Fy%3Fz%23"},
		{".", "..", "/v1/customers/%2E/members/%2E%2E"},
	} {
		if got, err := within(c.customer, "members", "MEMBER", c.member); err != nil || got != c.want {
			t.Errorf("%q %q: got %s, %v, want %s", c.customer, c.member, got, err, c.want)
		}
	}
	for _, c := range [][2]string{{"", "ann"}, {"acme", ""}} {
		if got, err := within(c[0], "members", "MEMBER", c[1]); err == nil {
			t.Errorf("%q %q: got %s, want it refused", c[0], c[1], got)
		}
	}
}
