// Command holdfast is the mail archive and continuity store: the node, and the
// commands with which an administrator speaks to it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Exit codes: 0 success, 1 failure, 2 a wrong call.
const (
	exitFailure = 1
	exitUsage   = 2
)

// usageError is a call that is wrong in itself.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// command is one subcommand.
type command struct {
	name  string // one or two words
	args  string // what follows, for the help
	short string
	long  string
	run   func(ctx context.Context, env *env) error
	flags func(fs *flag.FlagSet, env *env)
}

// env is what a command works with.
type env struct {
	config string // -c
	args   []string
	out    io.Writer
	errOut io.Writer

	json   bool
	prune  bool
	dryRun bool
	keep   bool
	to     string
	dir    string
	choose selectorFlags
}

func commands() []command {
	return []command{
		demoCommand(), serveCommand(), applyCommand(), statusCommand(), failoverCommand(), searchCommand(),
		redeliverCommand(), verifyCommand(), exportCommand(), backupCommand(), restoreCommand(), adoptCommand(), versionCommand(),
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run finds and runs the command, and says in one line what went wrong.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	err := dispatch(ctx, args, out, errOut)
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &usage):
		fmt.Fprintln(errOut, "holdfast:", oneLine(err))
		return exitUsage
	}
	fmt.Fprintln(errOut, "holdfast:", oneLine(err))
	return exitFailure
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func dispatch(ctx context.Context, args []string, out, errOut io.Writer) error {
	if len(args) == 0 {
		help(errOut)
		return usagef("no command given; holdfast --help lists them")
	}
	if args[0] == "help" || args[0] == "--help" || args[0] == "-h" {
		help(out)
		return nil
	}
	cmd, rest, err := find(args)
	if err != nil {
		return err
	}
	e := &env{out: out, errOut: errOut}
	fs := flag.NewFlagSet(cmd.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&e.config, "c", "", "the configuration `FILE`; without it the embedded default")
	if cmd.flags != nil {
		cmd.flags(fs, e)
	}
	if e.args, err = parseAnywhere(fs, rest); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			commandHelp(out, cmd, fs)
			return nil
		}
		return usagef("%v; holdfast %s --help explains it", err, cmd.name)
	}
	return cmd.run(ctx, e)
}

// find returns the command that the first one or two words name.
func find(args []string) (command, []string, error) {
	group := false
	for _, c := range commands() {
		words := strings.Fields(c.name)
		if words[0] != args[0] {
			continue
		}
		if len(words) == 1 {
			return c, args[1:], nil
		}
		group = true
		if len(args) > 1 && args[1] == words[1] {
			return c, args[2:], nil
		}
	}
	if group {
		var names []string
		for _, c := range commands() {
			if strings.HasPrefix(c.name, args[0]+" ") {
				names = append(names, c.name)
			}
		}
		return command{}, nil, usagef("say which: holdfast %s", strings.Join(names, ", holdfast "))
	}
	return command{}, nil, usagef("there is no command %q; holdfast --help lists them", args[0])
}

// parseAnywhere parses flags in any position. After "--" everything is an
// argument.
func parseAnywhere(fs *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		left := fs.Args()
		if len(left) == 0 {
			return rest, nil
		}
		if used := len(args) - len(left); used > 0 && args[used-1] == "--" {
			return append(rest, left...), nil
		}
		rest = append(rest, left[0])
		args = left[1:]
	}
}

func help(w io.Writer) {
	fmt.Fprint(w, `Holdfast keeps an organisation's mail: it accepts it, seals it into object
storage before the sender hears 250, delivers it to the primary server, and lets
users read and send while that is down.

Usage: holdfast COMMAND [-c FILE] ...

`)
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-16s %s\n", c.name, c.short)
	}
	fmt.Fprint(w, "\nholdfast COMMAND --help explains a command. Exit codes: 0 success, 1 failure, 2 wrong call.\n")
}

func commandHelp(w io.Writer, c command, fs *flag.FlagSet) {
	usage := "Usage: holdfast " + c.name
	if c.args != "" {
		usage += " " + c.args
	}
	fmt.Fprintf(w, "%s\n\n%s.\n", usage, c.short)
	if c.long != "" {
		fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(c.long))
	}
	fmt.Fprintln(w, "\nFlags:")
	fs.VisitAll(func(f *flag.Flag) {
		name, text := flag.UnquoteUsage(f)
		dash := "--"
		if len(f.Name) == 1 {
			dash = "-"
		}
		fmt.Fprintf(w, "  %-22s %s\n", strings.TrimSpace(dash+f.Name+" "+name), text)
	})
}

// want checks the number of arguments.
func (e *env) want(least, most int, what string) error {
	if len(e.args) < least || len(e.args) > most {
		return usagef("expected %s", what)
	}
	return nil
}
