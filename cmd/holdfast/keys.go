package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/term"

	"holdfast/crypto"
	"holdfast/eventlog"
	"holdfast/internal/disk"
)

const passphraseVar = "HOLDFAST_PASSPHRASE"

func backupCommand() command {
	return command{
		name: "keys backup", args: "FILE", short: "Write the root key to a file, protected by a passphrase",
		long: `Asks for the passphrase on the terminal, or takes it from HOLDFAST_PASSPHRASE.
Keep the file and the passphrase apart from the bucket, and from each other.
Works also while the node is down.`,
		run: backup,
	}
}

func backup(ctx context.Context, e *env) error {
	if err := e.want(1, 1, "one argument, the file to write"); err != nil {
		return err
	}
	cfg, err := loadConfig(e)
	if err != nil {
		return err
	}
	root, err := crypto.LoadRoot(cfg.RootKeyPath())
	if errors.Is(err, crypto.ErrNoRoot) {
		return fmt.Errorf("there is no root key at %s yet; the node makes it when it first starts", cfg.RootKeyPath())
	}
	if err != nil {
		return err
	}
	pass, err := passphrase(ctx, e, true)
	if err != nil {
		return err
	}
	var sealed bytes.Buffer
	now := time.Now()
	if err := root.Backup(&sealed, pass, now); err != nil {
		return err
	}
	if err := writeDurably(e.args[0], sealed.Bytes()); err != nil {
		return err
	}
	if err := root.MarkBackedUp(now); err != nil {
		return err
	}
	// The log remembers it too; the root file is what counts.
	if c, _, err := connect(ctx, e); err == nil {
		if _, err := call[struct{}](ctx, c, "/backed-up", struct{}{}); err != nil {
			fmt.Fprintln(e.errOut, "holdfast: the backup is written, but not on record in the log:", oneLine(err))
		}
	}
	fmt.Fprintf(e.out, "root key written to %s\n", e.args[0])
	return nil
}

// writeDurably writes a new file so that it survives a crash.
func writeDurably(path string, b []byte) error {
	f, err := createNew(path)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
		return fmt.Errorf("write %s: %w", path, err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func restoreCommand() command {
	return command{
		name: "keys restore", args: "FILE", short: "Read the root key back from a backup; never overwrites a key",
		run: func(ctx context.Context, e *env) error {
			if err := e.want(1, 1, "one argument, the backup file"); err != nil {
				return err
			}
			cfg, err := loadConfig(e)
			if err != nil {
				return err
			}
			path := cfg.RootKeyPath()
			if _, err := os.Lstat(path); err == nil {
				return fmt.Errorf("there is a root key at %s already; it is never overwritten: move it away first if it is the wrong one", path)
			}
			f, err := os.Open(e.args[0])
			if err != nil {
				return fmt.Errorf("read the backup: %w", err)
			}
			defer f.Close()
			pass, err := passphrase(ctx, e, false)
			if err != nil {
				return err
			}
			if err := disk.MakeDirs(filepath.Dir(path)); err != nil {
				return err
			}
			if _, err := crypto.RestoreRoot(path, f, pass); err != nil {
				return err
			}
			fmt.Fprintf(e.out, "root key restored to %s\n", path)
			return nil
		},
	}
}

func publicCommand() command {
	return command{
		name: "keys public", short: "Print the installation's public key, which verifies checkpoints and evidence",
		long: `It is not secret. Give it to whoever is to check what this installation signs
(holdfast log check --key), over a way on which nobody can exchange it. It stays
the same as long as the root key does. Works also while the node is down.`,
		run: alone(func(ctx context.Context, e *env) error {
			key, err := ownKey(ctx, e)
			if err != nil {
				return err
			}
			text, err := eventlog.FormatKey(key)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(e.out, text)
			return err
		}),
	}
}

// passphrase takes it from the environment, or asks for it, twice when it is a
// new one.
func passphrase(ctx context.Context, e *env, twice bool) ([]byte, error) {
	if p := os.Getenv(passphraseVar); p != "" {
		return []byte(p), nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return nil, usagef("there is no terminal to ask for the passphrase; set %s", passphraseVar)
	}
	p, err := ask(ctx, e, "Passphrase: ")
	if err != nil {
		return nil, err
	}
	if len(p) == 0 {
		return nil, errors.New("the passphrase is empty; give one of several words")
	}
	if !twice {
		return p, nil
	}
	again, err := ask(ctx, e, "Again: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(p, again) {
		return nil, errors.New("the two passphrases differ; nothing was written, try again")
	}
	return p, nil
}

// ask reads a line from the terminal without showing it. When ctx ends while it
// waits, the terminal is as it was before, and the reading goroutine is left
// behind: nothing can wake it, and the process is about to end.
func ask(ctx context.Context, e *env, prompt string) ([]byte, error) {
	fd := int(os.Stdin.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, fmt.Errorf("ask on the terminal: %w", err)
	}
	type answer struct {
		p   []byte
		err error
	}
	answers := make(chan answer, 1)
	fmt.Fprint(e.errOut, prompt)
	defer fmt.Fprintln(e.errOut)
	go func() {
		p, err := term.ReadPassword(fd)
		answers <- answer{p, err}
	}()
	select {
	case a := <-answers:
		if a.err != nil {
			return nil, fmt.Errorf("read the passphrase: %w", a.err)
		}
		return a.p, nil
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), term.Restore(fd, before))
	}
}
