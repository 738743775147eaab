//go:build unix

package testpg

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
)

// asOrdinaryUser makes cmd run in a process group of its own, so that an
// interrupt at the terminal reaches the tests only, and, because initdb refuses
// root, as user postgres if the tests run as root. That user then owns dir.
func asOrdinaryUser(cmd *exec.Cmd, dir string) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return fmt.Errorf("PostgreSQL refuses to run as root, and there is no user to run it as: %w", err)
	}
	uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return err
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(dir, int(uid), int(gid))
}

// killTree kills a process and its children, and returns their ids.
func killTree(parent int) ([]int, error) {
	// Stop it first, so that it starts no more children while they are counted.
	if err := syscall.Kill(parent, syscall.SIGSTOP); err != nil {
		return nil, err
	}
	pids := []int{parent}
	list, err := exec.Command("ps", "-A", "-o", "pid=", "-o", "ppid=").Output()
	for line := range strings.Lines(string(list)) {
		var pid, of int
		if _, err := fmt.Sscan(line, &pid, &of); err == nil && of == parent {
			pids = append(pids, pid)
		}
	}
	for _, pid := range pids {
		err = errors.Join(err, syscall.Kill(pid, syscall.SIGKILL))
	}
	return pids, err
}

// alive reports whether a process still runs. A zombie does not.
func alive(pid int) bool {
	state, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && !strings.HasPrefix(string(state), "Z")
}
