//go:build unix

package smtpc

import (
	"net"
	"syscall"
)

// quiet says whether it is certain, without waiting, that nothing is to be read
// from nc: no data, no end, no error.
func quiet(nc net.Conn) bool {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return false
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	again := false
	err = rc.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		again = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
	})
	return err == nil && again
}
