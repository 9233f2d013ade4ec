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
	"slices"
	"strings"
	"syscall"

	"holdfast/node"
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
	name   string // the command's
	config string // -c
	args   []string
	out    io.Writer
	errOut io.Writer

	json   bool
	prune  bool
	dryRun bool
	keep   bool
	to     string
	dir    string // or file
	key    string
	since  listFlag
	choose selectorFlags
	reason string
	yes    bool
	lost   bool
	tenant string
	domain string
	user   string
}

func commands() []command {
	return []command{
		demoCommand(), serveCommand(), applyCommand(), statusCommand(), failoverCommand(), searchCommand(),
		redeliverCommand(), holdAddCommand(), holdListCommand(), holdReleaseCommand(), eraseCommand(), tenantEndCommand(), confirmClockCommand(), runRetentionCommand(), verifyCommand(), checkpointCommand(), proveCommand(), checkCommand(), exportCommand(),
		backupCommand(), restoreCommand(), publicCommand(), adoptCommand(), versionCommand(),
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
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	fmt.Fprintln(errOut, "holdfast:", oneLine(advised(err)))
	return exitFailure
}

// oneLine puts an error that lists others on one line.
func oneLine(err error) string {
	return strings.NewReplacer(":\n", ": ", "\n", "; ").Replace(err.Error())
}

func dispatch(ctx context.Context, args []string, out, errOut io.Writer) error {
	if len(args) == 0 {
		return usagef("no command given; holdfast --help lists them")
	}
	for _, c := range commands() {
		e := &env{name: c.name, out: out, errOut: errOut}
		fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		fs.StringVar(&e.config, "c", "", "the configuration `FILE`; without it the embedded default")
		if c.flags != nil {
			c.flags(fs, e)
		}
		words := strings.Fields(c.name)
		rest, err := parseAnywhere(fs, args)
		if len(rest) < len(words) || !slices.Equal(rest[:len(words)], words) {
			continue
		}
		e.args = rest[len(words):]
		switch {
		case errors.Is(err, flag.ErrHelp):
			commandHelp(out, c, fs)
			return nil
		case err != nil:
			return usagef("%s; holdfast %s --help explains it", flagTrouble(err), c.name)
		}
		return c.run(ctx, e)
	}
	return noCommand(args, out)
}

// noCommand answers a call that names no command.
func noCommand(args []string, out io.Writer) error {
	word := ""
	for i, a := range args {
		switch {
		case i > 0 && (args[i-1] == "-c" || args[i-1] == "--c"): // the configuration
		case a == "--help" || a == "-h" || a == "-help":
			help(out, word)
			return nil
		case a == "--version" && word == "":
			fmt.Fprintln(out, "holdfast", node.Version)
			return nil
		case word == "" && !strings.HasPrefix(a, "-"):
			word = a
		}
	}
	var group []string
	for _, c := range groupOf(word) {
		group = append(group, "holdfast "+c.name)
	}
	switch {
	case word == "help":
		help(out, "")
		return nil
	case word == "":
		return usagef("no command given; holdfast --help lists them")
	case group != nil:
		return usagef("%s is half a command; say %s", word, strings.Join(group, " or "))
	}
	return usagef("there is no command %q; holdfast --help lists them", word)
}

// parseAnywhere parses flags in any position. After "--" everything is an
// argument. With an error it returns the arguments that came before it.
func parseAnywhere(fs *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return rest, err
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

// flagTrouble says in our own words what package flag found wrong. It has no
// kinds of errors to tell apart, only texts; an unknown one is passed on.
func flagTrouble(err error) string {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: "); ok {
		return "there is no flag " + dashes(strings.TrimLeft(name, "-"))
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: "); ok {
		return "the flag " + dashes(strings.TrimLeft(name, "-")) + " needs a value"
	}
	var value, name string
	if _, err := fmt.Sscanf(text, "invalid value %q for flag -%s", &value, &name); err == nil {
		return fmt.Sprintf("%q is no value for %s", value, dashes(strings.TrimSuffix(name, ":")))
	}
	return text
}

// dashes writes a flag as users write it.
func dashes(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
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
		fmt.Fprintf(w, "  %-22s %s\n", strings.TrimSpace(dashes(f.Name)+" "+name), text)
	})
}

// alone makes the run of a command that takes no arguments.
func alone(run func(context.Context, *env) error) func(context.Context, *env) error {
	return func(ctx context.Context, e *env) error {
		if err := e.want(0, 0, "no arguments"); err != nil {
			return err
		}
		return run(ctx, e)
	}
}

// want checks the number of arguments.
func (e *env) want(least, most int, what string) error {
	if len(e.args) < least || len(e.args) > most {
		return usagef("holdfast %s takes %s; holdfast %s --help explains it", e.name, what, e.name)
	}
	return nil
}
