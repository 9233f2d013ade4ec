// Command smtpconform holds a suite of SMTP conversations with a server and says
// which of them went as the standards want, which went otherwise, and which went
// as the standards forbid. See package smtpd/conformance for the conversations.
//
//	smtpconform -addr mx.example:25 -rcpt 'test*@example.org'
//
// Use it on servers of your own: it is not polite, and it sends several hundred
// messages to the recipients you name. A "*" in the recipient is replaced by a
// word that is different for each conversation; without it most conversations
// work as well, but 100 recipients are then one.
//
// What a server has kept can be seen if it relays everything to smtpconform
// itself, which takes it with -sink:
//
//	smtpconform -addr 127.0.0.1:25 -rcpt '*@example.org' -sink 127.0.0.1:2525
//
// It ends with status 1 if a conversation fails.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"regexp"
	"time"

	"holdfast/smtpd/conformance"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	switch err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintf(os.Stderr, "smtpconform: %v\n", err)
		os.Exit(1)
	}
}

// errFails is that the server does not conform.
var errFails = errors.New("the server does what the standards forbid")

// options are the flags.
type options struct {
	target   conformance.Target
	sink     string
	settle   time.Duration
	run      string
	parallel int
	all      bool
	list     bool
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("smtpconform", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.target.Addr, "addr", "", "`host:port` of the server, where it takes mail from anybody")
	f.StringVar(&o.target.Rcpt, "rcpt", "", "`address` it takes mail for; a * in it is replaced by a word")
	f.StringVar(&o.target.Submission, "submission", "", "`host:port` where users log in after STARTTLS")
	f.StringVar(&o.target.User, "user", "", "`name` to log in with")
	f.StringVar(&o.target.Password, "password", "", "`password` to log in with")
	f.StringVar(&o.target.Unknown, "unknown", "", "`address` that does not exist and is refused at RCPT")
	f.StringVar(&o.target.Relay, "relay", "", "`address` elsewhere that must be refused (default b@elsewhere.example)")
	f.StringVar(&o.target.From, "from", "", "sender `address` (default sender@sender.example)")
	f.StringVar(&o.target.Hello, "hello", "", "our `name` (default client.example)")
	f.DurationVar(&o.target.Timeout, "timeout", 10*time.Second, "how long to wait for one reply")
	f.StringVar(&o.sink, "sink", "", "take what the server relays at this `host:port`, to see what it kept")
	f.DurationVar(&o.settle, "settle", 5*time.Second, "how long nothing must come to the sink in the end")
	f.StringVar(&o.run, "run", "", "hold only conversations whose group/name matches this `regexp`")
	f.IntVar(&o.parallel, "parallel", 16, "conversations at one time")
	f.BoolVar(&o.all, "v", false, "name the conversations that pass, too")
	f.BoolVar(&o.list, "list", false, "list the conversations, and hold none")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if !o.list && (o.target.Addr == "" || o.target.Rcpt == "") {
		f.Usage()
		return o, errors.New("-addr and -rcpt are needed")
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	only, err := regexp.Compile(o.run)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	all, err := conformance.Load()
	if err != nil {
		return err
	}
	chosen := func(c *conformance.Conversation) bool { return only.MatchString(c.Group()) }
	if o.list {
		for i := range all {
			if c := &all[i]; chosen(c) {
				fmt.Fprintf(stdout, "%-6s %s (%s)\n", c.Level, c.Group(), c.Cite)
			}
		}
		return nil
	}
	if o.sink != "" {
		ln, err := net.Listen("tcp", o.sink)
		if err != nil {
			return fmt.Errorf("sink: %w", err)
		}
		sink := &conformance.Sink{Quiet: o.settle}
		o.target.Kept = sink
		serving, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- sink.Serve(serving, ln) }()
		defer func() { cancel(); <-done }()
	}
	results, err := conformance.Run(ctx, o.target, all, conformance.Options{Parallel: o.parallel, Only: chosen})
	if err != nil {
		return err
	}
	conformance.WriteText(stdout, results, o.all)
	for _, r := range results {
		if r.Verdict == conformance.Fails || r.Verdict == conformance.Broken {
			return errFails
		}
	}
	return nil
}
