package catalogfile

import (
	"os"
	"testing"
)

func TestTmp(t *testing.T) {
	src, _ := os.ReadFile("testdata/api.yaml")
	c, err := Parse("api.yaml", src)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", Format(c))
}
