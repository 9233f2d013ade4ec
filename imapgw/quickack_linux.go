package imapgw

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// quickAck has the kernel acknowledge what comes next without delay. It has to
// be asked again before each read, and failing only costs time.
func quickAck(raw syscall.RawConn) {
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	})
}
