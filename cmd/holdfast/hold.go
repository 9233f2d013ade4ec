package main

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"holdfast/node"
)

// scopeFlags registers the flags that say whose mail is meant, and which.
func scopeFlags(fs *flag.FlagSet, e *env) {
	fs.StringVar(&e.tenant, "tenant", "", "mail of the tenant with this `NAME`; alone: all of it")
	fs.StringVar(&e.domain, "domain", "", "mail to or from this `DOMAIN`")
	fs.StringVar(&e.user, "user", "", "mail to or from the user with this `ADDRESS`, by any of the user's addresses")
	fs.StringVar(&e.reason, "reason", "", "why, for the record; required")
}

// scope returns what the flags and ids say.
func (e *env) scope(ids []string) (node.Scope, error) {
	sel, err := e.selectors(ids)
	return node.Scope{Tenant: e.tenant, Domain: e.domain, User: e.user, Selectors: sel}, err
}

func holdAddCommand() command {
	return command{
		name: "hold add", args: "NAME --reason TEXT (--domain DOMAIN | --user ADDRESS | SELECTORS | ID...)", short: "Put mail under legal hold",
		long: `Mail that matches, now and later, does not expire and cannot be erased until the
hold is released. What is given must all match; --tenant NAME alone holds all mail
of a tenant. The hold is an event in the log: it survives apply and apply --prune.
It is on mail that came in or was sent, and on what users put into their mailboxes
themselves (IMAP APPEND); shadow search --state appended shows that.

Mail whose day was over before is being removed and cannot be saved any more; it is
counted.`,
		flags: func(fs *flag.FlagSet, e *env) {
			scopeFlags(fs, e)
			e.choose.registerMatch(fs)
			jsonFlag(fs, e)
		},
		run: holdAdd,
	}
}

func holdAdd(ctx context.Context, e *env) error {
	if len(e.args) == 0 {
		return usagef("say what the hold is called: holdfast hold add NAME --reason TEXT ...")
	}
	scope, err := e.scope(e.args[1:])
	if err != nil {
		return err
	}
	out, err := request[node.HoldAnswer](ctx, e, "/hold/add", node.HoldRequest{Name: e.args[0], Reason: e.reason, Scope: scope})
	if err != nil {
		return err
	}
	if e.json {
		return e.writeJSON(out)
	}
	fmt.Fprintf(e.out, "hold %s is placed on mail of %s: it keeps %s now, and what will match\n", out.Name, out.Tenant, count(out.Messages, "message"))
	if out.Condemned > 0 {
		fmt.Fprintf(e.out, "it came too late for %s, whose day was over before\n", count(out.Condemned, "message"))
	}
	return nil
}

func holdListCommand() command {
	return command{
		name: "hold list", args: "[--json]", short: "Show the legal holds that stand, and how many messages each keeps",
		flags: jsonFlag,
		run: alone(func(ctx context.Context, e *env) error {
			out, err := request[node.HoldsAnswer](ctx, e, "/hold/list", struct{}{})
			if err != nil {
				return err
			}
			return printHolds(e, out.Holds)
		}),
	}
}

func printHolds(e *env, holds []node.HoldStatus) error {
	if e.json {
		for _, h := range holds {
			if err := e.writeJSON(h); err != nil {
				return err
			}
		}
		return nil
	}
	if len(holds) == 0 {
		fmt.Fprintln(e.errOut, "no hold stands")
		return nil
	}
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HOLD\tTENANT\tPLACED\tBY\tMESSAGES\tSELECTS\tREASON")
	for _, h := range holds {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", h.Name, printable(h.Tenant), h.Since.Format(time.RFC3339), printable(h.Who), h.Messages,
			printable(selects(h)), printable(h.Reason))
	}
	return w.Flush()
}

// selects says what a hold is on, as the flags that made it.
func selects(h node.HoldStatus) string {
	var parts []string
	add := func(flag, value string) {
		if value != "" {
			parts = append(parts, flag+" "+value)
		}
	}
	add("--domain", h.Domain)
	add("--user", strings.Join(h.Users, ","))
	add("--rcpt", h.Rcpt)
	add("--from", h.From)
	add("--subject", h.Subject)
	add("--message-id", h.MessageID)
	for _, t := range []struct {
		flag string
		at   time.Time
	}{{"--since", h.Selectors.Since}, {"--until", h.Until}} {
		if !t.at.IsZero() {
			add(t.flag, t.at.Format(time.RFC3339))
		}
	}
	if n := len(h.IDs); n > 0 {
		parts = append(parts, count(n, "id"))
	}
	if len(parts) == 0 {
		return "all mail"
	}
	return strings.Join(parts, " ")
}

func holdReleaseCommand() command {
	return command{
		name: "hold release", args: "NAME --reason TEXT", short: "End a legal hold",
		long: `What the hold kept past its day, and nothing else keeps, is gone with the next
end of a day that it was kept for.`,
		flags: func(fs *flag.FlagSet, e *env) {
			fs.StringVar(&e.tenant, "tenant", "", "the `NAME` of the tenant, where several have a hold of this name")
			fs.StringVar(&e.reason, "reason", "", "why, for the record; required")
			jsonFlag(fs, e)
		},
		run: func(ctx context.Context, e *env) error {
			if err := e.want(1, 1, "one argument, the name of the hold"); err != nil {
				return err
			}
			out, err := request[node.HoldAnswer](ctx, e, "/hold/release", node.HoldRequest{Name: e.args[0], Reason: e.reason, Scope: node.Scope{Tenant: e.tenant}})
			if err != nil {
				return err
			}
			if e.json {
				return e.writeJSON(out)
			}
			fmt.Fprintf(e.out, "hold %s on mail of %s is released; it kept %s\n", out.Name, out.Tenant, count(out.Messages, "message"))
			return nil
		},
	}
}
