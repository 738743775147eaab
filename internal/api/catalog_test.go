package api

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestCatalog_EarlierAndJSON: an earlier catalogue can be read as it was sent, and each
// as JSON in which the plans are resolved.
func TestCatalog_EarlierAndJSON(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const first = "usher: 1\nfeatures: {sso: {kind: switch}}\nplans: {pro: {entitlements: {sso: true}}}\n"
	const second = "usher: 1\nfeatures: {sso: {kind: switch}}\nplans: {pro: {entitlements: {sso: true}}, max: {extends: pro}}\n"
	sandbox := []string{"Authorization", "Bearer " + w.keys["sandbox"]}
	asJSON := append([]string{"Accept", "application/json"}, sandbox...)
	var revision [2]string
	for i, src := range []string{first, second} {
		var made struct{ Revision json.Number }
		got := w.do("PUT", "/v1/catalog", "application/yaml", src, sandbox...)
		if err := json.Unmarshal(got.Body.Bytes(), &made); err != nil || got.Code != 200 {
			t.Fatalf("got %d %s", got.Code, got.Body)
		}
		revision[i] = made.Revision.String()
	}
	w.want(w.do("GET", "/v1/catalog", "", "", sandbox...), 200, second)
	w.want(w.do("GET", "/v1/catalog?revision="+revision[0], "", "", sandbox...), 200, first)
	w.want(w.do("GET", "/v1/catalog?revision="+revision[1], "", "", asJSON...), 200,
		`{"usher":1,"features":{"sso":{"kind":"switch"}},"plans":{"max":{"entitlements":{"sso":true}},"pro":{"entitlements":{"sso":true}}}}`)
	for target, status := range map[string]int{"?revision=0": 400, "?revision=x": 400, "?revision=99": 404} {
		if got := w.do("GET", "/v1/catalog"+target, "", "", sandbox...); got.Code != status {
			t.Errorf("%s: got %d %s, want %d", target, got.Code, got.Body, status)
		}
	}
	w.want(w.do("GET", "/v1/plans", "", "", sandbox...), 200, `{"data":[{"entitlements":{"sso":true},"key":"max","version":"max@1"},`+
		`{"entitlements":{"sso":true},"key":"pro","version":"pro@1"}]}`+"\n")
	w.want(w.do("GET", "/v1/features/sso", "", "", sandbox...), 200, `{"key":"sso","kind":"switch"}`+"\n")
	w.want(w.do("GET", "/v1/addons", "", "", sandbox...), 200, `{"data":[]}`+"\n")
	if got := w.do("GET", "/v1/plans/none", "", "", sandbox...); got.Code != 404 {
		t.Errorf("got %d %s, want 404", got.Code, got.Body)
	}
	got := w.do("GET", "/v1/catalog/schema", "", "", sandbox...)
	if got.Code != 200 || !strings.Contains(got.Body.String(), "https://json-schema.org/draft/2020-12/schema") {
		t.Errorf("got %d %.200s, want the JSON Schema", got.Code, got.Body)
	}
}
