//go:build !unix

package testpg

import "os/exec"

// asOrdinaryUser returns an error: without unix sockets and a POSIX shell, no
// server is sure to end with the tests.
func asOrdinaryUser(*exec.Cmd, string) error { return ErrNoBinaries }

func killTree(int) ([]int, error) { return nil, ErrNoBinaries }

func alive(int) bool { return false }
