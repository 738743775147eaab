package prove

import (
	"os/exec"
	"testing"
)

// fsck checks that a database's ledger, buckets and reports agree (I4).
func fsck(t *testing.T, dsn string) {
	t.Helper()
	if out, err := exec.Command(binary(t), "fsck", "--db", dsn).CombinedOutput(); err != nil {
		t.Errorf("usher fsck: %v\n%s", err, out)
	}
}
