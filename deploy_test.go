package usher_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

func deployFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestDeployBuilds runs the build of the Dockerfile, to the letter but for where it writes
// to, and asks the program for the version that was linked in.
func TestDeployBuilds(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("SKIPPED: the image is built on Linux")
	}
	line := regexp.MustCompile(`(?m)^RUN (CGO_ENABLED=0 go build .*)$`).FindStringSubmatch(deployFile(t, "Dockerfile"))
	if line == nil {
		t.Fatal("the Dockerfile builds nothing")
	}
	out := t.TempDir() + "/"
	c := exec.Command("sh", "-c", strings.Replace(line[1], "-o /out/", "-o "+out, 1))
	c.Env = append(os.Environ(), "VERSION=1.2.3")
	if text, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line[1], err, text)
	}
	if text, err := exec.Command(out+"usher", "--version").Output(); err != nil || string(text) != "usher 1.2.3\n" {
		t.Errorf("got %q, %v", text, err)
	}
	// Each variable that a file sets is one that serve reads.
	help, err := exec.Command(out+"usher", "serve", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Dockerfile", "compose.yaml", "deploy/usher.service"} {
		for _, v := range regexp.MustCompile(`USHER_[A-Z_]+`).FindAllString(deployFile(t, name), -1) {
			if !strings.Contains(string(help), "$"+v) {
				t.Errorf("%s sets %s, which serve does not read", name, v)
			}
		}
	}
}

// TestDeployFiles: the files for compose and goreleaser are what they should be, and name
// files that exist.
func TestDeployFiles(t *testing.T) {
	t.Parallel()
	var compose struct {
		Services map[string]struct {
			Build, Image string
			Environment  map[string]string
			DependsOn    map[string]any `yaml:"depends_on"`
		}
	}
	if err := yaml.Unmarshal([]byte(deployFile(t, "compose.yaml")), &compose); err != nil {
		t.Fatal(err)
	}
	usher, db := compose.Services["usher"], compose.Services["postgres"]
	if usher.Build != "." || usher.DependsOn["postgres"] == nil || !strings.HasPrefix(db.Image, "postgres:") ||
		!strings.Contains(usher.Environment["USHER_DB"], "@postgres:5432/"+db.Environment["POSTGRES_DB"]) {
		t.Errorf("compose.yaml: got %+v", compose)
	}
	var release struct {
		Builds []struct {
			Main         string
			Env, Ldflags []string
			Flags        []string
		}
		Archives []struct{ Files []string }
	}
	if err := yaml.Unmarshal([]byte(deployFile(t, ".goreleaser.yaml")), &release); err != nil {
		t.Fatal(err)
	}
	if len(release.Builds) != 2 || len(release.Archives) != 1 {
		t.Fatalf(".goreleaser.yaml: got %+v", release)
	}
	for _, b := range release.Builds {
		if _, err := os.Stat(b.Main); err != nil || !slices.Contains(b.Env, "CGO_ENABLED=0") || !slices.Contains(b.Flags, "-trimpath") {
			t.Errorf(".goreleaser.yaml: %+v: %v", b, err)
		}
	}
	for _, f := range release.Archives[0].Files {
		if _, err := os.Stat(f); err != nil {
			t.Error(err)
		}
	}
}

// TestDeployUnit: the page shows the unit as it is, and systemd reads it, where systemd is.
func TestDeployUnit(t *testing.T) {
	t.Parallel()
	unit := deployFile(t, "deploy/usher.service")
	if !strings.Contains(deployFile(t, "docs/how-to/run-it.md"), "```ini\n"+unit+"```") {
		t.Error("docs/how-to/run-it.md does not show deploy/usher.service as it is")
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("SKIPPED: there is no systemd-analyze here, so the unit is not verified")
	}
	program, err := os.Executable() // any program that is there
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "usher.service")
	if err := os.WriteFile(file, []byte(strings.Replace(unit, "/usr/local/bin/usher", program, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "verify", "--man=no", file).CombinedOutput()
	if err != nil || strings.Contains(string(out), "usher.service:") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
