package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/node"
)

func tenantEndCommand() command {
	return command{
		name: "tenant end", args: "NAME --reason TEXT", short: "End a tenant: all its mail, mailboxes and settings, for ever",
		long: `The tenant's secrets are destroyed, and with them all that is its own: mail, what
users filed, mailboxes, users, queue and history. It cannot be undone. A later
tenant of the same name is another one.

It is refused while the tenant has domains: take them out of the file of domains and
run holdfast apply FILE --prune first. It is refused while a legal hold stands on its
mail. To erase mail and go on with the tenant, use holdfast erase --tenant NAME.

Asks before it acts when it is run at a terminal. With -o the certificate, signed
and to be checked by anybody with holdfast log check, is written right away; it can
be had later, too: run the command again. docs/retention.md says what it reaches,
and what not.`,
		flags: func(fs *flag.FlagSet, e *env) {
			fs.StringVar(&e.reason, "reason", "", "why, for the record; required")
			fs.StringVar(&e.dir, "o", "", "write the certificate to this `FILE`; it must not exist")
			fs.BoolVar(&e.dryRun, "dry-run", false, "only say what would end")
			fs.BoolVar(&e.yes, "yes", false, "do not ask")
			fs.BoolVar(&e.lost, "keys-lost", false, "end a tenant whose keys are missing from the bucket and cannot be brought back")
			jsonFlag(fs, e)
		},
		run: tenantEnd,
	}
}

func tenantEnd(ctx context.Context, e *env) error {
	if err := e.want(1, 1, "the name of one tenant"); err != nil {
		return err
	}
	c, cfg, err := connect(ctx, e)
	if e.lost && errors.Is(err, errNotRunning) {
		return endLost(ctx, e, cfg)
	}
	if err != nil {
		return err
	}
	req := node.TenantEndRequest{Name: e.args[0], Reason: e.reason, KeysLost: e.lost, DryRun: true}
	if e.dryRun || !e.yes && term.IsTerminal(int(os.Stdin.Fd())) {
		would, err := call[node.TenantEndAnswer](ctx, c, "/tenant/end", req)
		if err != nil || e.dryRun {
			return errors.Join(err, tellWouldEnd(e, would, err))
		}
		if err := agreeToEnd(e, would); err != nil {
			return err
		}
	}
	var file *os.File
	if e.dir != "" { // what cannot be written is better known before
		if file, err = createNew(e.dir); err != nil {
			return err
		}
	}
	req.DryRun = false
	out, err := call[node.TenantEndAnswer](ctx, c, "/tenant/end", req)
	if err != nil || out.Certificate == "" {
		if file != nil {
			file.Close()
			os.Remove(e.dir)
		}
	} else if file != nil {
		err = certify(ctx, e, c, out.Certificate, file)
	}
	if err != nil {
		return err
	}
	return tellEnded(e, out)
}

// endLost ends a tenant without keys while no node runs.
func endLost(ctx context.Context, e *env, cfg node.Config) error {
	if e.dir != "" {
		return usagef("there is no certificate before the node has started again: leave out -o, and run this again then")
	}
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	req := node.TenantEndRequest{Name: e.args[0], Reason: e.reason, KeysLost: true, DryRun: true}
	end := func() (node.TenantEndAnswer, error) {
		return node.EndLost(ctx, cfg, node.Seams{}, slog.New(slog.DiscardHandler), name, req)
	}
	if e.dryRun || !e.yes && term.IsTerminal(int(os.Stdin.Fd())) {
		would, err := end()
		if err != nil || e.dryRun {
			return errors.Join(err, tellWouldEnd(e, would, err))
		}
		would.Domains = nil // they go with it
		if err := agreeToEnd(e, would); err != nil {
			return err
		}
	}
	req.DryRun = false
	out, err := end()
	if err != nil {
		return err
	}
	return tellEnded(e, out)
}

// goes says what goes with a tenant.
func goes(a node.TenantEndAnswer) string {
	text := fmt.Sprintf("%s (%s), %s", count(int64(a.Messages), "message"), count(int64(a.Bytes), "byte"), count(int64(a.Users), "user"))
	if a.Due > 0 {
		text += fmt.Sprintf("; %s will not be delivered any more", count(int64(a.Due), "message"))
	}
	return text
}

func tellWouldEnd(e *env, a node.TenantEndAnswer, err error) error {
	switch {
	case err != nil:
		return nil
	case e.json:
		return e.writeJSON(a)
	case a.Before:
		return tellEnded(e, a)
	}
	fmt.Fprintf(e.out, "tenant %s would end: %s\n", printable(a.Tenant), goes(a))
	if len(a.Domains) > 0 && !e.lost {
		fmt.Fprintf(e.out, "it would be refused: it still has %s; take that out of the file of domains and run holdfast apply FILE --prune first\n", printable(strings.Join(a.Domains, ", ")))
	}
	if len(a.Held) > 0 {
		fmt.Fprintf(e.out, "it would be refused: held by %s\n", printable(strings.Join(a.Held, ", ")))
	}
	return nil
}

// agreeToEnd shows what would end and asks.
func agreeToEnd(e *env, a node.TenantEndAnswer) error {
	switch {
	case a.Before || len(a.Domains) > 0:
		return nil // the node says it
	case len(a.Held) > 0:
		return fmt.Errorf("refused: held by %s; see holdfast hold list", strings.Join(a.Held, ", "))
	}
	fmt.Fprintf(e.errOut, "tenant %s ends for ever, with all that it has: %s. Write its name to end it: ", printable(a.Tenant), goes(a))
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != a.Tenant {
		return errors.New("nothing has ended")
	}
	return nil
}

func tellEnded(e *env, a node.TenantEndAnswer) error {
	if e.json {
		return e.writeJSON(a)
	}
	switch {
	case a.Before:
		fmt.Fprintf(e.out, "tenant %s had ended, %s\n", printable(a.Tenant), a.Ended.Format(time.RFC3339))
	case a.Certificate == "":
		fmt.Fprintf(e.out, "tenant %s has ended. Start the node, again if it runs; then run this again to have the certificate\n", printable(a.Tenant))
		return nil
	default:
		fmt.Fprintf(e.out, "tenant %s has ended for ever: %s\n", printable(a.Tenant), goes(a))
	}
	if e.dir != "" {
		fmt.Fprintf(e.out, "certificate written to %s\n", e.dir)
		return nil
	}
	fmt.Fprintf(e.out, "certificate: holdfast log prove %s -o FILE\n", a.Certificate)
	return nil
}

// ended is what the certificate of the end of a tenant proves, as JSON.
type ended struct {
	Log        string    `json:"log"`
	ID         string    `json:"id"`
	Partition  int       `json:"partition"`
	Segment    uint64    `json:"segment"`
	Index      int       `json:"index"`
	What       string    `json:"what"`
	Tenant     string    `json:"tenant"`
	Name       string    `json:"name"`
	Ended      time.Time `json:"ended"`
	Who        string    `json:"who"`
	Reason     string    `json:"reason"`
	Condemned  string    `json:"condemned"` // event
	Objects    uint64    `json:"objects"`
	Bytes      uint64    `json:"bytes"`
	Locked     uint64    `json:"locked,omitempty"`
	Written    time.Time `json:"written"`
	Checkpoint uint64    `json:"checkpoint"`
	Signed     time.Time `json:"signed"`
}

// tellEnd prints the certificate of the end of a tenant.
func tellEnd(e *env, ev *eventlog.Evidence, f *event.TenantEnded) error {
	pos := ev.Ref.Position
	p := ended{
		Log: ev.Log.String(), ID: ev.Ref.ID.String(), Partition: int(pos.Partition), Segment: uint64(pos.Seq), Index: int(pos.Index),
		What: ev.Kind(), Tenant: f.Tenant.String(), Name: f.Name, Ended: ev.Received(), Who: f.Who, Reason: f.Reason,
		Condemned: f.Order.String(), Objects: f.Objects, Bytes: f.Bytes, Locked: f.Locked,
		Written: time.UnixMilli(int64(ev.Written)).UTC(), Checkpoint: uint64(ev.Checkpoint.Seq), Signed: ev.Checkpoint.At(),
	}
	if e.json {
		return e.writeJSON(p)
	}
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "the certificate holds")
	fmt.Fprintf(w, "ended\ttenant %s, %s by %s\n", printable(p.Name), p.Ended.Format(time.RFC3339Nano), printable(p.Who))
	fmt.Fprintf(w, "reason\t%s\n", printable(p.Reason))
	fmt.Fprintf(w, "tenant\t%s\n", p.Tenant)
	fmt.Fprintf(w, "removed\t%s, %s\n", count(int64(p.Objects), "object"), count(int64(p.Bytes), "byte"))
	fmt.Fprintf(w, "id\t%s, condemned by %s\n", p.ID, p.Condemned)
	fmt.Fprintf(w, "place\tlog %s, partition %02x, segment %d, index %d, written %s\n", p.Log, p.Partition, p.Segment, p.Index, p.Written.Format(time.RFC3339Nano))
	fmt.Fprintf(w, "signed\tcheckpoint of segment %d, %s\n", p.Checkpoint, p.Signed.Format(time.RFC3339Nano))
	return w.Flush()
}
