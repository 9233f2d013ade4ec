package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"holdfast/eventlog"
	"holdfast/node"
)

// maxNotes bounds a file of checkpoints.
const maxNotes = 1 << 20

// listFlag is a flag that may be given more than once.
type listFlag []string

// String implements flag.Value.
func (l *listFlag) String() string { return strings.Join(*l, " ") }

// Set implements flag.Value.
func (l *listFlag) Set(s string) error {
	*l = append(*l, s)
	return nil
}

func verifyCommand() command {
	return command{
		name: "log verify", args: "[--since FILE] [--json]", short: "Read the whole log and check every hash, signature, seal and reference",
		long: `Exits with 1 and names the damage if there is any. Works also while the node is
down, and whatever the damage is.

The log is also held against checkpoints: signed notes that say which segment
stood at which place when. Those in the bucket and the newest ones that this node
remembers in data_dir are looked at in any case. A checkpoint that was kept
elsewhere (holdfast log checkpoint) shows with --since whether the log still
holds, unchanged, all that it held then.

Mail whose time is over, and what was removed with it, is no damage.`,
		flags: func(fs *flag.FlagSet, e *env) {
			jsonFlag(fs, e)
			fs.Var(&e.since, "since", "a `FILE` of checkpoints that were kept elsewhere; may be given again")
		},
		run: alone(verify),
	}
}

func verify(ctx context.Context, e *env) error {
	req, err := verifyRequest(e.since)
	if err != nil {
		return err
	}
	var last node.VerifyLine
	tell := func(l node.VerifyLine) error {
		if l.Damage != "" && !e.json {
			fmt.Fprintln(e.out, "DAMAGE:", printable(l.Damage))
		}
		last = l
		if e.json {
			return e.writeJSON(l)
		}
		return nil
	}
	c, cfg, err := connect(ctx, e)
	switch {
	case errors.Is(err, errNotRunning):
		err = node.VerifyBucket(ctx, cfg, req, tell)
		if text, wrong := node.WrongRequest(err); wrong {
			err = &usageError{text}
		}
	case err == nil:
		err = each(ctx, c, "/verify", req, tell)
	}
	if err != nil {
		return err
	}
	return verdict(e, last, len(req.Since))
}

// verifyRequest reads the checkpoints of --since.
func verifyRequest(files []string) (req node.VerifyRequest, err error) {
	for _, name := range files {
		info, err := os.Stat(name)
		if err == nil && info.Size() > maxNotes {
			return req, usagef("--since %s: it has %d bytes; a file of checkpoints has a few hundred for each partition", name, info.Size())
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return req, fmt.Errorf("--since: %w", err)
		}
		notes := eventlog.SplitNotes(b)
		if len(notes) == 0 {
			return req, usagef("--since %s: there is no checkpoint in it; holdfast log checkpoint prints them", name)
		}
		for _, n := range notes {
			req.Since = append(req.Since, string(n))
		}
	}
	return req, nil
}

// verdict prints what a verification saw, and fails when it found damage.
func verdict(e *env, last node.VerifyLine, since int) error {
	if !last.Done {
		return errors.New("the node broke off before the end of the log")
	}
	if !e.json {
		fmt.Fprintf(e.out, "%s, %s, %s and %s read; %s; %s\n", count(last.Segments, "segment"), count(last.Events, "event"),
			plural(last.Bodies, "body", "bodies"), count(last.Bytes, "byte"), count(last.Orphans, "unreferenced object"),
			count(last.Checkpoints, "checkpoint"))
		if last.Expired > 0 {
			fmt.Fprintf(e.out, "the mail of %s is gone because its time was over\n", count(last.Expired, "event"))
		}
		if last.Ended > 0 {
			fmt.Fprintf(e.out, "%s of tenants that have ended: only their digests were compared\n", count(last.Ended, "event"))
		}
	}
	if last.Damaged > 0 {
		return fmt.Errorf("the log is damaged in %s; keep the storage as it is and restore what is named from a copy", count(last.Damaged, "place"))
	}
	if !e.json {
		fmt.Fprintln(e.out, "the log is whole")
		if since > 0 {
			fmt.Fprintf(e.out, "it continues the %s given\n", plural(since, "checkpoint", "checkpoints"))
		}
	}
	return nil
}

func checkpointCommand() command {
	return command{
		name: "log checkpoint", args: "[-o FILE]", short: "Sign and print the newest checkpoint of each partition, to be kept elsewhere",
		long: `A checkpoint is a signed note of a few hundred bytes: that a partition of this
log held this segment, and so all before it, at this time. It says nothing about
anybody's mail. Kept where nobody can change it together with the bucket (printed,
mailed to a notary, in another cloud), it shows with holdfast log verify --since
FILE that nothing was taken back or rewritten since.`,
		flags: func(fs *flag.FlagSet, e *env) {
			fs.StringVar(&e.dir, "o", "", "write to this `FILE` instead of the terminal; it must not exist")
		},
		run: alone(func(ctx context.Context, e *env) error {
			out, err := requestAnyway[node.CheckpointAnswer](ctx, e, "/checkpoint", struct{}{})
			if err != nil {
				return err
			}
			notes := strings.Join(out.Notes, "\n")
			if e.dir == "" {
				_, err = fmt.Fprint(e.out, notes)
				return err
			}
			if err := writeDurably(e.dir, []byte(notes)); err != nil {
				return err
			}
			fmt.Fprintf(e.out, "%s written to %s\n", plural(len(out.Notes), "checkpoint", "checkpoints"), e.dir)
			return nil
		}),
	}
}
