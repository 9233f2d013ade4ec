package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// outageBegins stops the primary and waits until the node has noticed.
func (d *demo) outageBegins(ctx context.Context) error {
	d.outage = time.Now()
	d.primary.Stop()
	d.say(`The primary is cut off: its connections break, and its port is closed. Nobody tells the node. It finds out
by its probes, and by deliveries that fail; three failures in a row, a second apart, are enough here.`)
	var changes []upstreamChange
	err := poll(ctx, stateWithin, "the node to notice", func() error {
		changes = d.node.log.since(d.outage)
		if n := len(changes); n > 0 && changes[n-1].to == "down" {
			return nil
		}
		return errors.New("it does not say that the primary is down")
	})
	if err != nil {
		return err
	}
	if err := d.awaitState(ctx, "down"); err != nil {
		return err
	}
	took := time.Since(d.outage)
	d.showChanges(changes, d.outage)
	s, err := d.node.domain(ctx)
	if err != nil {
		return err
	}
	if s.Since == nil || s.Since.Before(d.outage.Add(-time.Second)) || !s.Open {
		return fmt.Errorf("status says %s since %v, users admitted: %v", s.State, s.Since, s.Open)
	}
	d.checked("%s after its death the primary is down on record, with the evidence, and Acme's people are let in.", human(took))
	d.note("from the death of the primary to the failover", took)
	return nil
}

// showChanges lists how the state of the primary changed, counted from t.
func (d *demo) showChanges(changes []upstreamChange, t time.Time) {
	var lines strings.Builder
	for _, c := range changes {
		fmt.Fprintf(&lines, "%8s  %-10s  %s\n", "+"+human(c.at.Sub(t)), c.to, c.observed)
	}
	d.write("\n")
	d.output(lines.String())
}

// mailDuringOutage sends mail that nobody can deliver now.
func (d *demo) mailDuringOutage(ctx context.Context) error {
	letters := []*letter{
		write(nadia, []string{"Alice <" + aliceAddr + ">"}, priceSubject, "Dear Alice,\n\nthe price of marble rises tomorrow. Sixty slabs: yes or no?\n\nNadia"),
	}
	for i := range 5 {
		to := []string{"Bob <" + bobAddr + ">"}
		if i%2 == 0 {
			to = append(to, "Alice <"+aliceAddr+">")
		}
		letters = append(letters, write(otto, to, fmt.Sprintf("Delivery note %d of 5", i+1), "Eight astrolabes in one crate.\n\nOtto"))
	}
	due, slowest := 0, time.Duration(0)
	for _, l := range letters {
		if err := d.post(ctx, l); err != nil {
			return err
		}
		due += len(l.to)
		slowest = max(slowest, l.took)
	}
	d.say(`%s come in from outside. Senders hear 250 as before, now within %s: their mail is in the archive, and due to the primary.`,
		count(len(letters), "message"), human(slowest))
	err := poll(ctx, arriveWithin, "the queue", func() error {
		s, err := d.node.domain(ctx)
		if err == nil && s.Queued != int64(due) {
			err = fmt.Errorf("%d are queued, want %d", s.Queued, due)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := d.receipts(ctx, letters, "due"); err != nil {
		return err
	}
	if err := d.show(ctx, "status"); err != nil {
		return err
	}
	d.checked("%s in the queue, none of them lost, none refused.", count(due, "recipient"))
	return nil
}

// aliceReads logs in and reads what came before and during the outage.
func (d *demo) aliceReads(ctx context.Context) (err error) {
	began := time.Now()
	if d.alice, err = dialIMAP(ctx, d.node.log.addr("imap"), aliceAddr, alicePassword); err != nil {
		return fmt.Errorf("log in as Alice: %w", err)
	}
	inbox, err := d.alice.look("INBOX")
	if err != nil {
		return err
	}
	took := time.Since(began)
	d.say(`Alice's mail program logs in over IMAP with her usual password, and shows her inbox:`)
	want := 0
	var lines strings.Builder
	for i, l := range d.inbound {
		if !strings.Contains(strings.Join(l.to, " "), aliceAddr) && !strings.Contains(strings.Join(l.to, " "), salesAddr) {
			continue
		}
		m, ok := inbox.find(l.subject)
		if !ok || !l.readAs(m.body) {
			return fmt.Errorf("message %s is not in the inbox as it was sent", l.id)
		}
		when := "since"
		if i < d.before {
			when = "before"
		}
		want++
		fmt.Fprintf(&lines, "%2s  %-6s  %s\n", m.uid, when, l.subject)
	}
	d.write("\n")
	d.output(lines.String())
	if len(inbox.messages) != want {
		return fmt.Errorf("the inbox has %s, want %d", count(len(inbox.messages), "message"), want)
	}
	d.checked("all of her mail is there, from before the outage and since, byte for byte; log in and read took %s.", human(took))
	d.note("to log in and to read the inbox", took)
	return nil
}

// aliceAnswers submits an answer to somebody outside and to Bob, who is idle.
func (d *demo) aliceAnswers(ctx context.Context) (err error) {
	if d.bob, err = dialIMAP(ctx, d.node.log.addr("imap"), bobAddr, bobPassword); err != nil {
		return fmt.Errorf("log in as Bob: %w", err)
	}
	if _, err := d.bob.look("INBOX"); err != nil {
		return err
	}
	tag, err := d.bob.idle()
	if err != nil {
		return err
	}
	d.answer = write("Alice <"+aliceAddr+">", []string{nadia, "Bob <" + bobAddr + ">"}, "Re: "+priceSubject,
		"Dear Nadia,\n\nyes, all sixty. Bob, please make room for them.\n\nAlice")
	if err := d.answer.send(ctx, d.node.log.addr("submission"), alicePassword); err != nil {
		return fmt.Errorf("submit as Alice: %w", err)
	}
	if err := d.bob.pushed(tag, " EXISTS"); err != nil {
		return err
	}
	pushed := time.Since(d.answer.sent)
	d.inbound = append(d.inbound, &letter{from: d.answer.from, to: []string{bobAddr}, subject: d.answer.subject, bytes: d.answer.bytes, id: d.answer.id})
	d.say(`Alice answers Nadia, with a copy to Bob, through the same mail program. Bob's program is idle, waiting for news.`)
	inbox, err := d.bob.look("INBOX")
	if err != nil {
		return err
	}
	if m, ok := inbox.find(d.answer.subject); !ok || !d.answer.readAs(m.body) {
		return errors.New("the answer is not in Bob's inbox as it was sent")
	}
	d.checked("Bob's program was told of it within %s of her sending it, and he reads what she wrote.", human(pushed))
	d.note("from Alice's sending to the news at Bob's", pushed)
	err = poll(ctx, arriveWithin, "the answer to go out", func() error {
		if d.answer.arrivedAt(d.world, nadiaAddr) != 1 {
			return errors.New("it is not at the smart host")
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.checked("Nadia's copy has left for the outside world; the outage does not concern her.")
	return d.fileAway()
}

// fileAway lets both users work on their mailboxes.
func (d *demo) fileAway() error {
	sent, err := d.alice.look("Sent")
	if err != nil {
		return err
	}
	if len(sent.messages) != 1 {
		return fmt.Errorf("the Sent mailbox has %s, want 1", count(len(sent.messages), "message"))
	}
	inbox, err := d.alice.look("INBOX")
	if err != nil {
		return err
	}
	price, ok := inbox.find(priceSubject)
	if !ok {
		return errors.New("the question is not in Alice's inbox")
	}
	if _, err := d.alice.do(`UID STORE %s +FLAGS (\Seen \Answered \Flagged)`, price.uid); err != nil {
		return err
	}
	marble, ok := inbox.find(marbleSubject)
	if !ok {
		return errors.New("the first message is not in Alice's inbox")
	}
	if _, err := d.alice.do(`UID MOVE %s "Archive"`, marble.uid); err != nil {
		return err
	}
	archive, err := d.alice.look("Archive")
	if err != nil {
		return err
	}
	if _, ok := archive.find(marbleSubject); !ok || len(archive.messages) != 1 {
		return errors.New("the message that was moved is not in the Archive")
	}
	d.checked("her answer is in Sent, once. She flags Nadia's question as answered, and files the first message under Archive.")
	return nil
}

// mailboxes reads all of Alice's that the story touches.
func (d *demo) mailboxes() (all []boxView, err error) {
	for _, name := range []string{"INBOX", "Sent", "Archive"} {
		v, err := d.alice.look(name)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// nodeDies kills the node, takes its disk away, and starts another.
func (d *demo) nodeDies(ctx context.Context) error {
	was, err := d.mailboxes()
	if err != nil {
		return err
	}
	d.node.kill()
	d.alice.close()
	d.bob.close()
	if err := os.RemoveAll(filepath.Join(d.dir, "data")); err != nil {
		return err
	}
	d.say(`Power fails: the node is killed in the middle of the outage (kill -9), and its local disk is gone (rm -r data).
The storage and the root key are all that is left. Another node starts on them:`)
	d.command("serve")
	took, err := d.node.start(ctx)
	if err != nil {
		return err
	}
	d.output(readyLine)
	if d.alice, err = dialIMAP(ctx, d.node.log.addr("imap"), aliceAddr, alicePassword); err != nil {
		return fmt.Errorf("log in as Alice again: %w", err)
	}
	is, err := d.mailboxes()
	if err != nil {
		return err
	}
	for i := range was {
		if !was[i].same(is[i]) {
			return errors.New("the mailboxes are not as they were")
		}
	}
	price, ok := is[0].find(priceSubject)
	if !ok || !strings.Contains(price.flags, `\Answered`) || !strings.Contains(price.flags, `\Flagged`) {
		return fmt.Errorf("the flags of Nadia's question are %q", price.flags)
	}
	d.checked("%s later Alice is back in her mailboxes, with the same messages, numbers and flags: her mail program does not even notice.", human(took))
	d.note("start of a node on an empty disk", took)
	return nil
}
