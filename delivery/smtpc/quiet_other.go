//go:build !unix

package smtpc

import "net"

// quiet says whether it is certain, without waiting, that nothing is to be read
// from nc. Here it never is, and the caller tries to read for a moment.
func quiet(net.Conn) bool { return false }
