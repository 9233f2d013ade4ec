package main

import (
	"archive/tar"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"holdfast/node"
)

func searchCommand() command {
	return command{
		name: "shadow search", args: "[SELECTORS] [--json]", short: "Find messages, newest first",
		long: `Shows 100 messages unless --limit says otherwise; --after goes on from there.
Each search is put on record.

What users put into their mailboxes themselves (IMAP APPEND: drafts, copies that their
clients keep) is shown with --state appended, and only then. Its recipient is the
user whose mailbox it is; --rcpt finds it by To, Cc and Bcc, too.`,
		flags: func(fs *flag.FlagSet, e *env) { e.choose.register(fs); jsonFlag(fs, e) },
		run:   search,
	}
}

func search(ctx context.Context, e *env) error {
	if err := e.want(0, 0, "no arguments, only selectors such as --rcpt ADDRESS"); err != nil {
		return err
	}
	sel, err := e.selectors(nil)
	if err != nil {
		return err
	}
	c, _, err := connect(ctx, e)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	first := true
	err = each(ctx, c, "/search", sel, func(r node.Row) error {
		if e.json {
			return e.writeJSON(rowOf(r))
		}
		if first {
			fmt.Fprintln(w, "ID\tRECEIVED\tFROM\tRECIPIENTS\tSIZE\tSUBJECT")
			first = false
		}
		var rcpts []string
		for i := range r.Rcpt {
			rcpts = append(rcpts, r.Rcpt[i]+" ("+r.State[i]+")")
		}
		from := r.From
		if from == "" {
			from = "<>"
		}
		_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", r.ID, r.Received.Format("2006-01-02T15:04:05Z"),
			printable(from), printable(strings.Join(rcpts, ", ")), r.Size, printable(r.Subject))
		return err
	})
	if err == nil && first && !e.json {
		fmt.Fprintln(e.errOut, "no message matches") // not on standard output, where rows are counted
	}
	return errors.Join(err, w.Flush())
}

// rowOf makes sure that the arrays are arrays.
func rowOf(r node.Row) node.Row {
	if r.Rcpt == nil {
		r.Rcpt = []string{}
	}
	if r.State == nil {
		r.State = []string{}
	}
	return r
}

// printable keeps strangers' text from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '?'
		}
		return r
	}, s)
}

func redeliverCommand() command {
	return command{
		name: "redeliver", args: "(ID... | SELECTORS) [--to ADDRESS] [--dry-run] [--json]", short: "Deliver messages again",
		long: `Delivers to the recipients that were selected: with --rcpt or --state only to
those. A message named by its ID that does not exist, or not any more, is said to be
not-found; one that a user put into a mailbox refuses all. Waits up to 25 s for a receipt each and then says queued: such a delivery
goes on by itself. A search that matches nothing is no error.`,
		flags: func(fs *flag.FlagSet, e *env) {
			e.choose.register(fs)
			jsonFlag(fs, e)
			fs.StringVar(&e.to, "to", "", "deliver to this `ADDRESS` instead of the original recipients")
			fs.BoolVar(&e.dryRun, "dry-run", false, "only say what would be delivered")
		},
		run: redeliver,
	}
}

func redeliver(ctx context.Context, e *env) error {
	sel, err := e.choice()
	if err != nil {
		return err
	}
	c, _, err := connect(ctx, e)
	if err != nil {
		return err
	}
	counts := map[string]int{}
	var order []string
	err = each(ctx, c, "/redeliver", node.RedeliverRequest{Selectors: sel, To: e.to, DryRun: e.dryRun}, func(l node.RedeliverLine) error {
		if e.json {
			return e.writeJSON(l)
		}
		if l.NotFound() {
			_, err := fmt.Fprintf(e.out, "%s  %s\n", l.ID, l.Result)
			return err
		}
		if counts[l.Result]++; counts[l.Result] == 1 {
			order = append(order, l.Result)
		}
		_, err := fmt.Fprintf(e.out, "%s  %s  %s\n", l.ID, printable(l.Rcpt), l.Result)
		return err
	})
	if err != nil || e.json {
		return err
	}
	total := 0
	var parts []string
	for _, word := range order {
		total += counts[word]
		parts = append(parts, fmt.Sprintf("%d %s", counts[word], word))
	}
	if total == 0 {
		fmt.Fprintln(e.out, "0 recipients: nothing matched")
		return nil
	}
	fmt.Fprintf(e.out, "%s: %s\n", count(total, "recipient"), strings.Join(parts, ", "))
	return nil
}

func exportCommand() command {
	return command{
		name: "export", args: "(ID... | SELECTORS) -o DIR", short: "Write original messages as .eml files",
		long: `The files hold exactly the bytes that the senders sent, or that a user put into a
mailbox (--state appended, or by ID). Works also while the
node is down. Existing files are not overwritten.`,
		flags: func(fs *flag.FlagSet, e *env) {
			e.choose.register(fs)
			fs.StringVar(&e.dir, "o", "", "the `DIR`ectory to write to; it is made if it is missing")
		},
		run: export,
	}
}

func export(ctx context.Context, e *env) error {
	sel, err := e.choice()
	if err != nil {
		return err
	}
	if e.dir == "" {
		return usagef("say where to: -o DIR")
	}
	return fetch(ctx, e, "/export", sel, func(body io.Reader) error { return unpack(e, body) })
}

// unpack writes the messages of an archive into the directory.
func unpack(e *env, body io.Reader) error {
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	tr := tar.NewReader(body)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			fmt.Fprintf(e.out, "%s written to %s\n", count(n, "message"), e.dir)
			return nil
		}
		if err != nil {
			return fmt.Errorf("the node broke off after %d messages: %w", n, err)
		}
		if err := extract(filepath.Join(e.dir, filepath.Base(h.Name)), tr); err != nil {
			return err
		}
	}
}

func extract(path string, r io.Reader) error {
	f, err := createNew(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path) // half a message would pass for a whole one
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
