package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// replay starts the primary again and waits until it has everything.
func (d *demo) replay(ctx context.Context) error {
	began := time.Now()
	if err := d.primary.Start(); err != nil {
		return fmt.Errorf("start the primary again: %w", err)
	}
	missed := d.inbound[d.before:]
	d.say(`The primary is started again, %s after it died. The node notices, lets a first message through, and then
sends the rest in the order in which it came, as fast as the primary can take it.`, human(began.Sub(d.outage)))
	err := poll(ctx, replayWithin, "the replay", func() error { return d.arrivedOnce(d.inbound) })
	if err != nil {
		return err
	}
	all := time.Now()
	if err := d.inOrder(missed); err != nil {
		return err
	}
	d.checked("all %s that the primary missed, Alice's answer to Bob among them, arrived there once, unchanged and in order, within %s of its return.",
		count(len(missed), "message"), human(all.Sub(began)))
	d.note("from the primary's return to the last message", all.Sub(began))
	if err := d.receipts(ctx, missed[:len(missed)-1], "delivered"); err != nil {
		return err
	}
	if err := d.receipts(ctx, []*letter{d.answer}, "delivered"); err != nil {
		return err
	}
	if err := d.show(ctx, "shadow", "search", "--since", "1h", "--subject", "delivery note"); err != nil {
		return err
	}
	d.checked("every recipient of every message has its receipt: delivered. None is uncertain, none is left.")
	if err := d.awaitState(ctx, "up"); err != nil {
		return err
	}
	d.showChanges(d.node.log.since(began), began)
	s, err := d.node.domain(ctx)
	if err != nil {
		return err
	}
	if s.Queued != 0 || s.Held != 0 || s.Outbound != 0 {
		return fmt.Errorf("%d are still queued, %d held, %d outbound", s.Queued, s.Held, s.Outbound)
	}
	if _, err := d.alice.do("NOOP"); err != nil {
		return fmt.Errorf("the open session: %w", err)
	}
	if err := refused(ctx, d.node.log.addr("imap"), bobAddr, bobPassword); err != nil {
		return err
	}
	d.checked("the queue is empty and the state is up. Sessions that are open get ten minutes; new logins belong to the primary again.")
	return nil
}

// inOrder fails unless the primary got each recipient's letters in the order of
// sending.
func (d *demo) inOrder(letters []*letter) error {
	last := map[string]int{}
	for _, tx := range d.primary.Transactions() {
		rest, _ := cutReceived(string(tx.Body))
		at := slices.IndexFunc(letters, func(l *letter) bool { return string(l.bytes) == rest })
		if at < 0 {
			continue
		}
		for _, r := range tx.Recipients {
			if before, ok := last[r.To]; ok && at < before {
				return errors.New("a recipient got two messages in the wrong order")
			}
			last[r.To] = at
		}
	}
	return nil
}

// redelivery lets an administrator deliver a message again.
func (d *demo) redelivery(ctx context.Context) error {
	d.say(`Days later, Bob has deleted Otto's message at the primary, and with it the address of the gate. The archive
keeps all mail for thirty days: an administrator finds the message and has it delivered again, to Bob alone.`)
	selectors := []string{"--subject", "astrolabes collection", "--rcpt", bobAddr}
	if err := d.show(ctx, append([]string{"redeliver", "--dry-run"}, selectors...)...); err != nil {
		return err
	}
	if err := d.show(ctx, append([]string{"redeliver"}, selectors...)...); err != nil {
		return err
	}
	lenses := d.inbound[d.before-1]
	if b, a := lenses.arrivedAt(d.primary, bobAddr), lenses.arrivedAt(d.primary, salesAddr); b != 2 || a != 1 {
		return fmt.Errorf("the message was delivered %d times to Bob and %d times to sales, want 2 and 1", b, a)
	}
	d.checked("it is at the primary a second time for Bob, and for nobody else. Who asked for it is on record.")
	return nil
}

// proof reads the whole log, and looks for readable mail on the disk.
func (d *demo) proof(ctx context.Context) error {
	d.say(`The archive is a log: every entry is hashed into a chain, signed and sealed. Anybody with the storage and
the key can read it again from the beginning and see that nothing is missing and nothing was changed.`)
	if err := d.show(ctx, "log", "verify"); err != nil {
		return err
	}
	if err := d.show(ctx, "export", "--since", "1h", "-o", "export"); err != nil {
		return err
	}
	for _, l := range append(slices.Clone(d.inbound), d.answer) {
		b, err := os.ReadFile(filepath.Join(d.dir, "export", l.id+".eml"))
		if err != nil {
			return err
		}
		if string(b) != string(l.bytes) {
			return fmt.Errorf("message %s is exported with other bytes than were sent", l.id)
		}
	}
	d.checked("the archive gives back every message with exactly the bytes that its sender sent.")
	stop, err := d.node.stop()
	if err != nil {
		return err
	}
	return d.unreadable(stop)
}

// unreadable looks for words of the mail wherever the node writes. That the
// search would find them is shown on the messages that were just exported.
func (d *demo) unreadable(stop time.Duration) error {
	words := []string{"cathedral", "astrolabes", "slabs are cut", nadiaAddr, "otto@lenses", aliceAddr, alicePassword}
	in := func(name string) string { return filepath.Join(d.dir, name) }
	control, err := searchFiles(traces(words[:4]...), in("export"))
	if err != nil {
		return err
	}
	if len(control.found) < 4 {
		return errors.New("the search does not even find words in exported mail")
	}
	out, err := searchFiles(traces(words...), in("bucket"), in("data"), in("node.log"))
	if err != nil {
		return err
	}
	if len(out.found) > 0 {
		return fmt.Errorf("readable on disk: %s", strings.Join(out.found, ", "))
	}
	if out.files == 0 {
		return errors.New("there are no files to look through")
	}
	d.say(`The node is asked to leave (SIGTERM) and does, within %s. What would a thief of its disk, or of the storage, find?`, human(stop))
	d.checked("in %s, %d KB of storage, local data and log, there is no subject, no text, no address and no password: not plain, and not in base64. The same search finds them %s in the exported messages.",
		count(out.files, "file"), out.bytes>>10, count(len(control.found), "time"))
	return nil
}
