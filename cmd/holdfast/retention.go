package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"holdfast/node"
)

// printRetention writes what is kept, and until when.
func printRetention(w io.Writer, r *node.Retention) {
	if len(r.Tenants) > 0 {
		fmt.Fprintln(w, "\nKEPT MAIL OF\tTENANT\tMESSAGES\tBYTES\tOLDEST DAY\tNEXT EXPIRY\tPAST DAY\tUNDER HOLD\tERASED")
	}
	for _, t := range r.Tenants {
		for _, d := range t.Domains {
			printKept(w, d.Name, t.Tenant, d.MailKept)
		}
		if t.Several() {
			printKept(w, "(all)", t.Tenant, t.MailKept)
		}
	}
	fmt.Fprintln(w)
	if r.ReadableFrom != "" {
		fmt.Fprintf(w, "readable\tmail that expires on %s or later\n", r.ReadableFrom)
	}
	if r.Removed.Days > 0 {
		fmt.Fprintf(w, "removed\t%s, %s\n", count(r.Removed.Objects, "object"), count(r.Removed.Bytes, "byte"))
	}
	for _, t := range r.Tenants {
		if t.Holds > 0 {
			fmt.Fprintf(w, "legal holds\t%d on mail of %s; holdfast hold list\n", t.Holds, printable(t.Tenant))
		}
	}
	if b := r.Bucket; b != nil {
		fmt.Fprintf(w, "bucket\t%s, %s at %s; a rebuild reads %s, %s\n", count(b.Objects, "object"), count(b.Bytes, "byte"), b.At.Format(time.RFC3339),
			count(b.Rebuild.Objects, "object"), count(b.Rebuild.Bytes, "byte"))
	}
}

// printKept writes the account of a domain, or of all of a tenant.
func printKept(w io.Writer, name, tenant string, k node.MailKept) {
	oldest, next := "-", "-"
	if k.NextExpiry != nil {
		oldest, next = k.Oldest, k.NextExpiry.Format(time.RFC3339)
	}
	fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%d\t%d\t%d\n", printable(name), printable(tenant), k.Messages, k.Bytes, oldest, next, k.PastDay, k.UnderHold, k.Erased)
}

func confirmClockCommand() command {
	return command{
		name: "retention confirm-clock", short: "Say that this machine's clock is right, so that mail may expire by it",
		long: `On a file: bucket there is no other clock than the machine's. When it is more than
two days ahead of the last day that has ended, nothing expires until it has run so for
24 hours, or until you have looked at it and say with this command that it is right. holdfast status
warns of it. What has expired by a wrong clock is gone: look twice.`,
		run: alone(func(ctx context.Context, e *env) error {
			out, err := request[node.ClockAnswer](ctx, e, "/retention/confirm-clock", struct{}{})
			if err != nil {
				return err
			}
			fmt.Fprintf(e.out, "on record: by the clock of this machine it is %s, and that is right; what is due begins\n", out.Now.Format(time.RFC3339))
			return nil
		}),
	}
}

func runRetentionCommand() command {
	return command{
		name: "retention run", short: "Do now what is due of the work at the end of a day",
		long: `It is done by itself a minute after midnight UTC, and when it fails again a few
minutes later. This is for when you have mended what it failed of, or confirmed the clock.
Segments are packed, too, which is else done once an hour.`,
		run: alone(func(ctx context.Context, e *env) error {
			if _, err := request[struct{}](ctx, e, "/retention/run", struct{}{}); err != nil {
				return err
			}
			fmt.Fprintln(e.out, "nothing is due any more")
			return nil
		}),
	}
}
