package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"holdfast/crash/judge"
	"holdfast/e2e/outside"
	"holdfast/internal/disk/journal"
)

// drainWithin is how long a node without faults may take until nothing is due.
const drainWithin = 90 * time.Second

// JudgeVar names the record for a judge that is this program, run again.
const JudgeVar = "HOLDFAST_CRASH_JUDGE"

// guilty is the judge's exit code when a promise was broken.
const guilty = 3

// ending lets all faults stop, waits until everything is delivered, looks once more
// and takes the power away, so that only what is durable is left to the judge.
func (w *World) ending(ctx context.Context) error {
	w.run++
	late := time.Duration(0)
	if w.opt.Days {
		late = drainAfter
	}
	if err := errors.Join(w.weather(plan{}), w.begin(ctx, late)); err != nil {
		return err
	}
	if !w.applied {
		w.apply(ctx)
	}
	if !w.applied {
		return &Broken{[]string{"without faults the settings cannot be applied"}}
	}
	if err := w.sendOne(ctx); err != nil {
		return err
	}
	if err := w.drain(ctx); err != nil {
		return err
	}
	if w.opt.Days {
		if err := w.decide(ctx); err != nil {
			return err
		}
		if err := w.finish(ctx); err != nil {
			return err
		}
	}
	box, err := outside.DialIMAP(ctx, w.node.IMAP, judge.User, password)
	if err == nil {
		_, err = w.look(box, "INBOX")
	}
	if err == nil {
		_, err = w.look(box, "Archive")
	}
	if err != nil {
		return &Broken{[]string{fmt.Sprintf("without faults the user cannot look: %v", err)}}
	}
	box.Close()
	if err := w.node.Stop(); err != nil {
		return &Broken{[]string{err.Error()}}
	}
	w.seenKill()
	if w.gateway == nil {
		if _, err := journal.Lose(w.journal, w.rng, true); err != nil {
			return err
		}
	}
	w.rec.Drained = true
	if w.opt.Days {
		return w.export(ctx)
	}
	return nil
}

// begin starts a node that nothing happens to, so much later than the one before.
func (w *World) begin(ctx context.Context, later time.Duration) error {
	if err := w.pass(later); err != nil {
		return err
	}
	if err := w.launch(nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if err := w.node.WaitReady(ctx); err != nil {
		return &Broken{[]string{fmt.Sprintf("after the last kill the node does not start: %v", err)}}
	}
	return nil
}

// sendOne sends a message that has to be accepted.
func (w *World) sendOne(ctx context.Context) error {
	conn, err := outside.DialSMTP(ctx, w.node.SMTP)
	if err != nil {
		return &Broken{[]string{fmt.Sprintf("without faults nobody answers: %v", err)}}
	}
	defer conn.Close()
	if !w.send(conn, w.run) {
		last := w.rec.Sent[len(w.rec.Sent)-1]
		return &Broken{[]string{fmt.Sprintf("without faults a message is not accepted: %s %s", last.Answer, last.Reply)}}
	}
	return nil
}

// drain waits until nothing is due.
func (w *World) drain(ctx context.Context) error {
	end := time.Now().Add(drainWithin)
	for {
		out, err := w.node.Run(ctx, nil, "status", "--json")
		if err != nil {
			return err
		}
		var s struct {
			Domains []struct {
				Name   string
				Queued int
			}
			Balance *struct {
				Balanced bool
				Total    struct{ Due int64 }
			}
		}
		if err := json.Unmarshal([]byte(out.Stdout), &s); err != nil {
			return fmt.Errorf("status: exit %d: %w: %s%s", out.Code, err, out.Stdout, out.Stderr)
		}
		if len(s.Domains) == 1 && s.Domains[0].Queued == 0 && s.Balance != nil && s.Balance.Total.Due == 0 {
			w.rec.Balanced = s.Balance.Balanced
			return nil
		}
		if time.Now().After(end) {
			return &Broken{[]string{fmt.Sprintf("without faults mail is still due after %v: %s; the node says:\n%s", drainWithin, out.Stdout, tail(w.node.LastLog()))}}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Sit is the judge's process: it reads the record, says what is wrong, and returns
// the exit code.
func Sit(ctx context.Context, file string) int {
	raw, err := os.ReadFile(file)
	var rec judge.Record
	if err == nil {
		err = json.Unmarshal(raw, &rec)
	}
	var wrong []string
	if err == nil {
		wrong, err = judge.Judge(ctx, &rec)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, s := range wrong {
		fmt.Println(s)
	}
	if len(wrong) > 0 {
		return guilty
	}
	return 0
}
