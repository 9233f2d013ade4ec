package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"holdfast/directory"
	"holdfast/node"
)

func applyCommand() command {
	return command{
		name: "apply", args: "DOMAINS.toml [--prune]", short: "Make domains and users as a file says",
		long: `Declarative: it may be run again and then changes nothing. It prints what it
changed. Domains and users that the file does not name stay, unless --prune is
given.`,
		flags: func(fs *flag.FlagSet, e *env) {
			fs.BoolVar(&e.prune, "prune", false, "remove what the file does not name")
		},
		run: func(ctx context.Context, e *env) error {
			if err := e.want(1, 1, "one argument, the file of domains and users"); err != nil {
				return err
			}
			file, err := node.LoadDomains(e.args[0])
			if err != nil {
				return err
			}
			out, err := request[node.ApplyAnswer](ctx, e, "/apply", node.ApplyRequest{File: file, Prune: e.prune})
			if wrong, ok := errors.AsType[*usageError](err); ok {
				// The call was right; what the file says is not.
				return fmt.Errorf("%s: %s", e.args[0], wrong.text)
			}
			if err != nil {
				return err
			}
			for _, line := range out.Changes {
				fmt.Fprintln(e.out, line)
			}
			if len(out.Changes) == 0 {
				fmt.Fprintln(e.out, "nothing to change")
			}
			return nil
		},
	}
}

func statusCommand() command {
	return command{
		name: "status", args: "[--json]", short: "Show how the node and its domains stand; exits 0 when it is ready",
		flags: jsonFlag,
		run: alone(func(ctx context.Context, e *env) error {
			c, _, err := connect(ctx, e)
			if err != nil {
				return err
			}
			body, err := c.do(ctx, http.MethodGet, "/status", nil)
			if err != nil {
				return err
			}
			defer body.Close()
			var s node.Status
			if err := json.NewDecoder(body).Decode(&s); err != nil {
				return fmt.Errorf("read the node's answer: %w", err)
			}
			if e.json {
				err = e.writeJSON(s)
			} else {
				err = printStatus(e, s)
			}
			if err == nil && !s.Ready {
				err = errors.New("the node is not ready yet: it is reading the log")
			}
			return err
		}),
	}
}

func jsonFlag(fs *flag.FlagSet, e *env) {
	fs.BoolVar(&e.json, "json", false, "print JSON, one object a line")
}

func printStatus(e *env, s node.Status) error {
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "store\t%s\n", s.Store.URL)
	fmt.Fprintf(w, "log\t%s, segments in its %s: %s\n", s.Log.ID, count(s.Log.Partitions, "partition"), strings.Trim(fmt.Sprint(s.Log.Tails), "[]"))
	for _, p := range s.Projections {
		state := "in step"
		switch {
		case p.Stopped != "":
			state = "STOPPED at " + p.StoppedAt + ": " + p.Stopped
		case p.Rebuilding:
			state = fmt.Sprintf("rebuilding, %d segments behind", p.Lag)
		case p.Trouble != "":
			state = p.Trouble
		case p.Lag > 0:
			state = fmt.Sprintf("%d segments behind", p.Lag)
		}
		fmt.Fprintf(w, "projection %s\tversion %d, %s\n", p.Name, p.Version, state)
	}
	if s.UnpurgedSince != nil {
		fmt.Fprintf(w, "local database\terased mail is still in its files, which are being rewritten, since %s\n", s.UnpurgedSince.Format(time.RFC3339))
	}
	if b := s.Balance; b != nil {
		n := b.Total
		state := "balanced"
		if !b.Balanced {
			state = "NOT BALANCED"
		}
		fmt.Fprintf(w, "recipients\t%d accepted = %d delivered + %d due + %d held + %d bounced + %d expired + %d erased: %s\n",
			n.Accepted, n.Delivered, n.Due, n.Held, n.Bounced, n.Expired, n.Erased, state)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(s.Domains) > 0 {
		fmt.Fprintln(w, "\nDOMAIN\tPRIMARY\tSINCE\tOVERRIDE\tUSERS\tQUEUED\tHELD IN QUEUE\tOUTBOUND")
	}
	for _, d := range s.Domains {
		since, users := "-", "refused"
		if d.Since != nil {
			since = d.Since.Format("2006-01-02T15:04:05Z")
		}
		if d.Open {
			users = "admitted"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\n", d.Name, d.State, since, d.Failover, users, d.Queued, d.Held, d.Outbound)
	}
	if s.Retention != nil {
		printRetention(w, s.Retention)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, warning := range s.Warnings {
		fmt.Fprintln(e.out, "\nWARNING:", warning)
	}
	return nil
}

func failoverCommand() command {
	return command{
		name: "failover", args: "on|off|auto DOMAIN", short: "Override the detector for a domain",
		long: `on   holds the queue and admits users, whatever the primary does
off  delivers and refuses users
auto lets the detector decide`,
		run: func(ctx context.Context, e *env) error {
			if err := e.want(2, 2, "two arguments, on, off or auto and a domain"); err != nil {
				return err
			}
			mode := strings.ToLower(e.args[0])
			switch directory.Failover(mode) {
			case directory.FailoverAuto, directory.FailoverOn, directory.FailoverOff:
			default:
				return usagef("the first argument is on, off or auto, not %q", e.args[0])
			}
			if _, err := request[struct{}](ctx, e, "/failover", node.FailoverRequest{Mode: mode, Domain: e.args[1]}); err != nil {
				return err
			}
			fmt.Fprintf(e.out, "failover of %s is %s\n", e.args[1], mode)
			return nil
		},
	}
}

func adoptCommand() command {
	return command{
		name: "adopt", short: "Take a copied or restored bucket into service",
		long: `A bucket that is found under another URL than it is in service under opens
read-only, so that a restore drill delivers nothing. adopt makes this copy the
one in service; the other must not be used any more. Restart the node after it.`,
		run: alone(func(ctx context.Context, e *env) error {
			out, err := requestAnyway[map[string]string](ctx, e, "/adopt", struct{}{})
			if err != nil {
				return err
			}
			fmt.Fprintf(e.out, "in service is now %s (before: %s); restart the node if it runs\n", out["to"], out["from"])
			return nil
		}),
	}
}
