package store

import "syscall"

// tcpUserTimeout is TCP_USER_TIMEOUT of <linux/tcp.h>, which the package syscall does
// not have.
const tcpUserTimeout = 18

// giveUp makes a connection fail once what was sent has not been acknowledged for
// ms. Keep-alives do not find this out: they are sent only while nothing is on its way.
func giveUp(network string, c syscall.RawConn, ms int) (err error) {
	if network == "unix" {
		return nil
	}
	if bad := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, ms) }); bad != nil {
		return bad
	}
	return err
}
