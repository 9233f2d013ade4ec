package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"

	"holdfast/node"
)

func eraseCommand() command {
	return command{
		name: "erase", args: "(ID... | SELECTORS | --user ADDRESS | --domain DOMAIN | --tenant NAME) --reason TEXT", short: "Make messages unreadable for ever, with a certificate",
		long: `All that matches is erased, for all who got it: from mailboxes, search and export,
and from every copy of the bucket that is made from now on. The files of the nodes'
databases are rewritten without it soon after. It cannot be undone.
What users put into their mailboxes themselves (IMAP APPEND) is erased when it
matches, too, although a search shows it only with --state appended.
Messages under a legal hold are refused, and with them the whole request.

Asks before it acts when it is run at a terminal. With -o the certificate, signed
and to be checked by anybody with holdfast log check, is written right away; it can
be had later, too. docs/retention.md says what an erasure reaches, and what not.`,
		flags: func(fs *flag.FlagSet, e *env) {
			scopeFlags(fs, e)
			e.choose.registerMatch(fs)
			fs.StringVar(&e.choose.state, "state", "", "`STATE` of a recipient: due, delivered, uncertain, held, bounced, expired, or appended")
			fs.StringVar(&e.dir, "o", "", "write the certificate to this `FILE`; it must not exist")
			fs.BoolVar(&e.dryRun, "dry-run", false, "only say what would be erased")
			fs.BoolVar(&e.yes, "yes", false, "do not ask")
			jsonFlag(fs, e)
		},
		run: erase,
	}
}

func erase(ctx context.Context, e *env) error {
	scope, err := e.scope(e.args)
	if err != nil {
		return err
	}
	c, _, err := connect(ctx, e)
	if err != nil {
		return err
	}
	req := node.EraseRequest{Reason: e.reason, Scope: scope, DryRun: e.dryRun}
	if e.dryRun {
		_, err := eraseDryRun(ctx, e, c, req)
		return err
	}
	if !e.yes && term.IsTerminal(int(os.Stdin.Fd())) {
		if req, err = confirmed(ctx, e, c, req); err != nil {
			return err
		}
	}
	var file *os.File
	if e.dir != "" { // what cannot be written is better known before
		if file, err = createNew(e.dir); err != nil {
			return err
		}
	}
	certificates, done, err := eraseNow(ctx, c, req)
	return errors.Join(err, eraseTold(ctx, e, c, file, certificates, done))
}

// eraseNow erases, and returns where that is certified.
func eraseNow(ctx context.Context, c *client, req node.EraseRequest) (certificates []node.EraseLine, done node.EraseLine, err error) {
	err = each(ctx, c, "/erase", req, func(l node.EraseLine) error {
		switch {
		case l.Done:
			done = l
		case l.Certificate != "":
			certificates = append(certificates, l)
		}
		return nil
	})
	if err == nil && !done.Done {
		err = errors.New("the node broke off; run it again: what is erased stays so")
	}
	return certificates, done, err
}

// erased is what an erasure did, as JSON.
type erased struct {
	Tenant       string        `json:"tenant"`
	Messages     int           `json:"messages"`
	Shared       int           `json:"shared,omitempty"`
	Certificates []certificate `json:"certificates"`
}

// certificate is where an erasure is certified.
type certificate struct {
	ID    string `json:"id"`
	Place string `json:"place"`
	File  string `json:"file,omitempty"` // in which it was written
}

// eraseTold tells what was erased, and writes the certificates where a file is
// given. It does so for what was done before a failure, too.
func eraseTold(ctx context.Context, e *env, c *client, file *os.File, certificates []node.EraseLine, done node.EraseLine) error {
	out := erased{Tenant: done.Tenant, Shared: done.Shared, Certificates: []certificate{}}
	for i, l := range certificates {
		out.Messages += l.Messages
		out.Certificates = append(out.Certificates, certificate{ID: l.Certificate, Place: l.Place})
		if e.dir == "" {
			continue
		}
		f := file
		if i > 0 {
			var err error
			if f, err = createNew(fmt.Sprintf("%s.%d", e.dir, i+1)); err != nil {
				return err
			}
		}
		if err := certify(ctx, e, c, l.Certificate, f); err != nil {
			return fmt.Errorf("%s erased, but the certificate is not written: %w; try again: holdfast log prove %s -o FILE", count(out.Messages, "message"), err, l.Certificate)
		}
		out.Certificates[i].File = f.Name()
	}
	if file != nil && len(certificates) == 0 {
		file.Close()
		os.Remove(e.dir)
	}
	switch {
	case e.json && (done.Done || len(certificates) > 0):
		return e.writeJSON(out)
	case e.json || !done.Done && len(certificates) == 0:
		return nil
	case out.Messages == 0:
		fmt.Fprintln(e.out, "0 messages: nothing matched")
		return nil
	}
	fmt.Fprintf(e.out, "%s erased for ever%s\n", count(out.Messages, "message"), sharedText(out.Shared))
	for _, c := range out.Certificates {
		fmt.Fprintf(e.out, "certificate %s, at %s in the log: ", c.ID, c.Place)
		if c.File != "" {
			fmt.Fprintf(e.out, "written to %s\n", c.File)
		} else {
			fmt.Fprintf(e.out, "holdfast log prove %s -o FILE\n", c.ID)
		}
	}
	return nil
}

func sharedText(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; %d of them went to other users, too", n)
}

// certify writes one certificate.
func certify(ctx context.Context, e *env, c *client, id string, f *os.File) error {
	body, err := c.post(ctx, "/prove", node.ProveRequest{ID: id})
	if err != nil {
		f.Close()
		os.Remove(f.Name())
		return err
	}
	defer body.Close()
	_, _, err = keepProof(ctx, e, body, f)
	return err
}

// eraseDryRun tells what would be erased, and returns the ids of that.
func eraseDryRun(ctx context.Context, e *env, c *client, req node.EraseRequest) (done node.EraseLine, err error) {
	err = each(ctx, c, "/erase", req, func(l node.EraseLine) error {
		if l.Done {
			done = l
		}
		if e.json {
			return e.writeJSON(l)
		}
		if l.Message == nil {
			return nil
		}
		m := l.Message
		_, err := fmt.Fprintf(e.out, "%s  %s  %s  %s  %s\n", m.ID, m.Received.Format("2006-01-02T15:04:05Z"), printable(m.From),
			printable(strings.Join(m.Rcpt, ", ")+appendedText(m)), printable(m.Subject))
		return err
	})
	if err != nil || e.json {
		return done, err
	}
	fmt.Fprintf(e.out, "%s of %s would be erased%s\n", count(done.Messages, "message"), printable(done.Tenant), sharedText(done.Shared))
	if len(done.Held) > 0 {
		fmt.Fprintf(e.out, "it would be refused: held by %s\n", strings.Join(done.Held, ", "))
	}
	return done, nil
}

// appendedText marks what a user put into a mailbox.
func appendedText(m *node.Row) string {
	if m.Appended() {
		return " (appended)"
	}
	return ""
}

// confirmed shows what would be erased and asks; the request that it returns is
// for these messages and no others.
func confirmed(ctx context.Context, e *env, c *client, req node.EraseRequest) (node.EraseRequest, error) {
	req.DryRun = true
	var ids []string
	var done node.EraseLine
	err := each(ctx, c, "/erase", req, func(l node.EraseLine) error {
		if l.Message != nil {
			ids = append(ids, l.Message.ID)
		}
		if l.Done {
			done = l
		}
		return nil
	})
	if err != nil || len(ids) == 0 {
		req.DryRun = false
		return req, err
	}
	if len(done.Held) > 0 {
		return req, fmt.Errorf("refused: held by %s; see holdfast hold list", strings.Join(done.Held, ", "))
	}
	fmt.Fprintf(e.errOut, "%s of %s will be unreadable for ever%s. Erase them? Write yes: ", count(len(ids), "message"), printable(done.Tenant), sharedText(done.Shared))
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "yes" {
		return req, errors.New("nothing was erased")
	}
	req.DryRun, req.Only = false, ids
	return req, nil
}
