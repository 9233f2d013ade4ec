package smtpc

import (
	"net"
	"syscall"
)

// tcpQuickAck is TCP_QUICKACK (tcp(7)).
const tcpQuickAck = 12

// eager has the kernel acknowledge at once what a server says. Many servers
// write the replies to a pipelined flight one by one with Nagle's algorithm on:
// the second then waits until the first is acknowledged, and that would take
// 40 ms.
func eager(nc net.Conn) net.Conn {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nc
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nc
	}
	return &eagerConn{tcp, raw}
}

type eagerConn struct {
	*net.TCPConn
	raw syscall.RawConn
}

// Read implements net.Conn. The option has to be set before each read.
func (c *eagerConn) Read(p []byte) (int, error) {
	// Failing costs time only.
	_ = c.raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpQuickAck, 1) })
	return c.TCPConn.Read(p)
}
