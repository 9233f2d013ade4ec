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

	"holdfast/delivery/smtpc/smtptest"
)

// The people of the story.
const (
	aliceAddr, alicePassword = "alice@acme.test", "correct horse"
	bobAddr, bobPassword     = "bob@acme.test", "battery staple"
	salesAddr                = "sales@acme.test" // an alias of Alice's
	nadia                    = "Nadia Petrov <nadia@quarry.example>"
	nadiaAddr                = "nadia@quarry.example"
	otto                     = "Otto Lindqvist <otto@lenses.example>"
)

// Subjects that the story comes back to.
const (
	marbleSubject    = "Marble for the cathedral floor"
	astrolabeSubject = "Forty astrolabes, ready for collection"
	priceSubject     = "Prices rise tomorrow: yes or no?"
)

const demoDomains = `[[domain]]
name       = "acme.test"
tenant     = "acme"
primary    = ["smtp://%s"]
outbound   = "smtp://%s"
continuity = "outage"
  [domain.health]
  probe_every = "1s"
  down_after  = 3
  up_after    = 2

[[user]]
address  = "alice@acme.test"
aliases  = ["sales@acme.test"]
password = "correct horse"

[[user]]
address  = "bob@acme.test"
password = "battery staple"
`

// Patience with what the story waits for. Each takes a fraction of it on an
// idle machine.
const (
	arriveWithin = 20 * time.Second
	stateWithin  = 30 * time.Second
	replayWithin = 60 * time.Second
)

// setUp starts everything and tells Holdfast whom it serves.
func (d *demo) setUp(ctx context.Context) error {
	for _, s := range []*smtptest.Server{d.primary, d.world} {
		if err := s.Start(); err != nil {
			return err
		}
	}
	d.say(`Acme has a mail server, and now a node of Holdfast in front of it. The storage is a plain directory here;
in earnest it is an S3 bucket that many equal nodes share.`)
	d.command("serve")
	took, err := d.node.start(ctx)
	if err != nil {
		return err
	}
	d.output(readyLine)
	d.checked("the node is ready, %s after it was started.", human(took))
	d.note("start of a node", took)

	d.say(`On its first start the node made a root key. All mail is sealed under it: whoever has only the storage
can read nothing, and whoever loses the key has lost the mail. So the first thing to do is a backup.`)
	if err := d.show(ctx, "keys", "backup", "root.backup"); err != nil {
		return err
	}
	d.say("Which domains and people it serves is said in a file, here with one domain and two people.")
	file := fmt.Sprintf(demoDomains, d.primary.Addr(), d.world.Addr())
	if err := os.WriteFile(filepath.Join(d.dir, "domains.toml"), []byte(file), 0o600); err != nil {
		return err
	}
	if err := d.show(ctx, "apply", "domains.toml"); err != nil {
		return err
	}
	if err := d.awaitState(ctx, "up"); err != nil {
		return err
	}
	d.checked("the node probes the primary once a second, and finds it up.")
	return nil
}

// show runs a command and shows it as an administrator sees it.
func (d *demo) show(ctx context.Context, args ...string) error {
	d.command(args...)
	out, err := d.node.holdfast(ctx, args...)
	d.output(out)
	return err
}

// awaitState waits until the domain is in a state.
func (d *demo) awaitState(ctx context.Context, want string) error {
	return poll(ctx, stateWithin, "the state "+want, func() error {
		s, err := d.node.domain(ctx)
		if err == nil && s.State != want {
			err = fmt.Errorf("the primary is said to be %s", s.State)
		}
		return err
	})
}

// post sends a letter to the node from outside.
func (d *demo) post(ctx context.Context, l *letter) error {
	if err := l.send(ctx, d.node.log.addr("smtp"), ""); err != nil {
		return fmt.Errorf("send mail to the node: %w", err)
	}
	d.inbound = append(d.inbound, l)
	return nil
}

// ordinaryDay sends two letters through the node to the primary.
func (d *demo) ordinaryDay(ctx context.Context) error {
	marble := write(nadia, []string{"Alice <" + aliceAddr + ">"}, marbleSubject, "Dear Alice,\n\nthe slabs are cut. Shall we send all sixty?\n\nNadia")
	lenses := write(otto, []string{"Acme <" + salesAddr + ">", "Bob <" + bobAddr + ">"}, astrolabeSubject, "The crates stand at our gate.\n.\nA line with a dot alone has to survive the journey.\n\nOtto")
	for _, l := range []*letter{marble, lenses} {
		if err := d.post(ctx, l); err != nil {
			return err
		}
	}
	d.before = len(d.inbound)
	d.say(`Nadia writes to Alice; Otto writes to sales@acme.test, which is Alice too, and to Bob. Both senders hear:`)
	d.output("250 2.0.0 Kept as " + marble.id + "\n250 2.0.0 Kept as " + lenses.id)
	d.say(`Kept means kept: the message was encrypted, written to storage and flushed before the 250 was said, which
took %s and %s. If storage does not answer, the sender hears 451 and keeps the message.`, human(marble.took), human(lenses.took))
	d.note("from the end of a message to its 250", marble.took)

	sent := time.Now()
	err := poll(ctx, arriveWithin, "the primary to get the mail", func() error { return d.arrivedOnce(d.inbound) })
	if err != nil {
		return err
	}
	d.checked("both are at the primary, each recipient's once, byte for byte as they were sent, %s later.", human(time.Since(sent)))
	if err := d.receipts(ctx, d.inbound, "delivered"); err != nil {
		return err
	}
	d.checked("every recipient has a receipt in the archive.")

	err = refused(ctx, d.node.log.addr("imap"), aliceAddr, alicePassword)
	if err != nil {
		return err
	}
	d.checked("Alice cannot log in here while her own server is up: there is one place for her mail at a time.")
	return nil
}

// arrivedOnce fails unless the primary has each letter once for each recipient.
func (d *demo) arrivedOnce(letters []*letter) error {
	for _, l := range letters {
		for _, to := range l.to {
			switch n := l.arrivedAt(d.primary, to); {
			case n == 0:
				return fmt.Errorf("message %s has not arrived", l.id)
			case n > 1:
				return fatal(fmt.Errorf("message %s arrived %d times", l.id, n))
			}
		}
	}
	return nil
}

// receipts waits until the archive says of each letter that all its recipients
// are in a state.
func (d *demo) receipts(ctx context.Context, letters []*letter, state string) error {
	return poll(ctx, arriveWithin, "the receipts", func() error {
		rows, err := d.node.rows(ctx, "--since", "1h", "--state", state)
		if err != nil {
			return err
		}
		for _, l := range letters {
			n := 0
			for _, r := range rows {
				if r.ID != l.id {
					continue
				}
				n++
				if len(r.Rcpt) != len(l.to) || slices.ContainsFunc(r.State, func(s string) bool { return s != state }) {
					return fmt.Errorf("message %s is %s, not %s", l.id, strings.Join(r.State, " and "), state)
				}
			}
			if n != 1 {
				return fmt.Errorf("message %s is found %s", l.id, count(n, "time"))
			}
		}
		return nil
	})
}

// refused fails unless the login is refused because the domain is up, and not
// for the password.
func refused(ctx context.Context, addr, user, password string) error {
	t, err := dialIMAP(ctx, addr, user, password)
	if err == nil {
		t.close()
		return errors.New("a user is let in while the primary is up")
	}
	no, ok := errors.AsType[*imapRefusal](err)
	if !ok {
		return err
	}
	if !strings.Contains(no.text, "UNAVAILABLE") { // RFC 5530 §3
		return fmt.Errorf("a login while the primary is up is answered with %q", no.text)
	}
	return nil
}
