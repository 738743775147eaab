package api

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/danielgtaylor/huma/v2"
)

// TestDocsRoutes: http.md lists exactly the routes of the OpenAPI document,
// which are those of the table.
func TestDocsRoutes(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/reference/http.md")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	documented := map[string]bool{}
	for path, item := range w.api.huma.OpenAPI().Paths {
		for method, op := range map[string]any{"GET": item.Get, "PUT": item.Put, "POST": item.Post, "PATCH": item.Patch, "DELETE": item.Delete} {
			if op != (*huma.Operation)(nil) {
				documented[method+" "+path] = true
			}
		}
	}
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)`([A-Z]+ /[^`?]*)[`?]").FindAllSubmatch(page, -1) {
		listed[string(m[1])] = true
	}
	var table []string
	for _, rt := range w.api.table {
		table = append(table, rt.Pattern)
		if !listed[rt.Pattern] {
			t.Errorf("http.md does not list `%s`", rt.Pattern)
		}
		if !documented[rt.Pattern] {
			t.Errorf("the OpenAPI document does not have %s", rt.Pattern)
		}
	}
	for pattern := range listed {
		if !slices.Contains(table, pattern) {
			t.Errorf("http.md lists `%s`, which is no route", pattern)
		}
	}
	for pattern := range documented {
		if !slices.Contains(table, pattern) {
			t.Errorf("the OpenAPI document has %s, which is no route", pattern)
		}
	}
}
