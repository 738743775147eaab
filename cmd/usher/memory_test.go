package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	machine := file("meminfo", "MemTotal:        2048 kB\nMemFree:            1 kB\n")
	for _, c := range []struct {
		limit string
		want  int64
	}{{"", 2 << 20}, {"max\n", 2 << 20}, {"1048576\n", 1 << 20}, {"9223372036854771712\n", 2 << 20}} {
		if got := memory(machine, file("limit", c.limit), filepath.Join(dir, "none")); got != c.want {
			t.Errorf("a limit of %q: got %d, want %d", c.limit, got, c.want)
		}
	}
	if got := memory(filepath.Join(dir, "none"), filepath.Join(dir, "none")); got != 0 {
		t.Errorf("without any file: got %d, want 0, unknown", got)
	}
}
