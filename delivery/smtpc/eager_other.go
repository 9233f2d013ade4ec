//go:build !linux

package smtpc

import "net"

// eager does nothing where there is no such option.
func eager(nc net.Conn) net.Conn { return nc }
