package prove

import (
	"os/exec"
	"testing"
)

// fsck checks that a database's ledger, buckets and reports agree, where the
// binary can. No node may serve the database.
func fsck(t *testing.T, dsn string) {
	t.Helper()
	if exec.Command(binary(t), "fsck", "--help").Run() != nil {
		t.Log("this usher has no fsck: ledger and buckets were not compared")
		return
	}
	if out, err := exec.Command(binary(t), "fsck", "--db", dsn).CombinedOutput(); err != nil {
		t.Errorf("usher fsck: %v\n%s", err, out)
	}
}
