//go:build !linux

package imapgw

import "syscall"

// quickAck does nothing where there is no such option.
func quickAck(syscall.RawConn) {}
