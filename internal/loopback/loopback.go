// Package loopback gives tests addresses for the servers that they start.
package loopback

import (
	"errors"
	"net"
	"os"
	"strconv"
	"sync/atomic"
)

// The ports given lie below those that the kernel gives by itself, to listeners
// on port 0 and to every outgoing connection: one that is free stays so, also
// while a server is down for a moment.
const (
	first = 10_000
	count = 20_000
)

// next counts the addresses that were given.
var next atomic.Uint32

// ErrNoPort says that nothing is free.
var ErrNoPort = errors.New("no free port on loopback")

// Addr returns an address on which nobody listens, and which this process is not
// given again for a long time.
func Addr() (string, error) {
	for range count {
		// Processes begin apart from each other.
		port := first + (uint32(os.Getpid())*97+next.Add(1))%count
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		if err := ln.Close(); err != nil {
			return "", err
		}
		return addr, nil
	}
	return "", ErrNoPort
}
