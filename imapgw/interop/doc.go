// Package interop lets real mail clients use package imapgw over an in-memory
// backend: Python's imaplib, curl, mbsync, mutt and Thunderbird read, flag, move,
// append and search, and what one does another hears in IDLE.
//
// The tests install the clients from Debian when they are missing, so they run
// apart from the unit tests:
//
//	go test -tags interop ./imapgw/interop
package interop
