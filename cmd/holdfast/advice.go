package main

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"syscall"

	"holdfast/crypto"
	"holdfast/eventlog"
	"holdfast/objstore/fs"
)

// advice says what to do about errors that do not say so themselves. The first
// one that fits is given.
var advice = []struct {
	about error
	do    string
}{
	{errNotRunning, ""}, // it says so itself
	{crypto.ErrReadableByOthers, "make it readable for its owner alone: chmod 600 FILE"},
	{crypto.ErrNoRoot, "restore it from its backup: holdfast keys restore FILE (a first start of holdfast serve makes one)"},
	{crypto.ErrPassphrase, "give the passphrase that the backup was made with, or another copy of the backup"},
	{fs.ErrLocked, "one node at a time can have a file: bucket; stop the other one, or wait until it has started"},
	{eventlog.ErrClock, "set the clocks right, for instance by NTP"},
	{syscall.EADDRINUSE, "another program listens there, perhaps another node; stop it or set another address"},
	{syscall.ECONNREFUSED, "nothing listens there; start it or set another address"},
	{syscall.ENOSPC, "make room"},
	{iofs.ErrPermission, "run it as the user whose files these are"},
}

// advised adds to an error what to do about it, where that is known.
func advised(err error) error {
	for _, a := range advice {
		if !errors.Is(err, a.about) {
			continue
		}
		if a.do == "" {
			return err
		}
		return fmt.Errorf("%w; %s", err, a.do)
	}
	return err
}
