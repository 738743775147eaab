//go:build !unix

package testpg

import "os/exec"

// asOrdinaryUser refuses: without unix sockets and a POSIX shell there is no
// server that is sure to end with the tests.
func asOrdinaryUser(*exec.Cmd, string) error { return ErrNoBinaries }

func killTree(int) ([]int, error) { return nil, ErrNoBinaries }

func alive(int) bool { return false }
