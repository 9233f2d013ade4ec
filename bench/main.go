// Command bench measures Holdfast beside Postfix and smtp-sink on the same
// machine in the same run, and prints a table of figures and ratios.
//
//	go run ./bench                                 every row
//	go run ./bench -rows accept-fs,accept-s3 -n 5000
//
// The binary is bin/holdfast, which `make bench` builds. What is measured, and
// with which settings of the peers, stands in the table and under it. It needs
// what `make setup` installs, and root, because Postfix does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// A row is one line of the table.
type row struct {
	name string // for -rows
	what string
	run  func(context.Context, *bench) (outcome, error)
}

// An outcome is what a row found.
type outcome struct {
	holdfast string
	peer     string // what it is compared with, or empty
	ratio    string
	target   string
	met      bool
}

func rows() []row {
	return []row{
		{"accept-fs", "accept, fs bucket, sealed and durable", acceptFS},
		{"accept-s3", "accept, S3 (versitygw on this machine)", acceptS3},
		{"forward", "accept and forward to smtp-sink", forward},
		{"drain", "drain of a queue after recovery, to smtp-sink", drain},
		{"put-p99", "from final dot to 250, 20 sessions, p99", putP99},
		{"lone", "a lone message of 10 KB, from final dot to 250, median", lone},
		{"large-one", "a lone message of 50 MB", largeOne},
		{"cpu-10k", "processor time of accepting 10 KB, fs bucket", cpu10k},
		{"idle-10k", "10,000 idle SMTP connections", idle10k},
		{"fair-1000", "1,000 connections sending at once", fair1000},
		{"large", "20 concurrent messages of 50 MB", large},
		{"imap-flags", "UID FETCH 1:* (FLAGS), 100,000 messages", imapFlags},
		{"rebuild", "rebuild of all projections", rebuild},
		{"search", "search, selective, p95", search},
	}
}

func main() {
	var names []string
	for _, r := range rows() {
		names = append(names, r.name)
	}
	b := &bench{}
	only := flag.String("rows", strings.Join(names, ","), "rows to measure, separated by commas")
	flag.IntVar(&b.count, "n", 10000, "messages sent in the accept and forward rows")
	flag.IntVar(&b.queue, "queue", 20000, "messages in the queue of the drain row")
	flag.IntVar(&b.archive, "archive", 1_000_000, "messages in the archive of the search row; the other rows need 100,000")
	flag.IntVar(&b.sessions, "sessions", 20, "SMTP sessions at once")
	flag.StringVar(&b.binary, "binary", "bin/holdfast", "the program to measure")
	flag.StringVar(&b.profiles, "profiles", "", "directory for processor profiles of the node")
	flag.BoolVar(&b.alone, "alone", false, "measure no peers: figures without targets, to work with")
	dir := flag.String("dir", "/tmp", "where servers keep their data: the disk that is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.measure(ctx, *dir, strings.Split(*only, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measure runs the named rows and prints the table. A row that fails is said so
// in the table, and measure fails in the end.
func (b *bench) measure(ctx context.Context, dir string, names []string) (err error) {
	if b.binary, err = filepath.Abs(b.binary); err != nil {
		return err
	}
	if _, err := os.Stat(b.binary); err != nil {
		return fmt.Errorf("build it first with make build: %w", err)
	}
	if b.dir, err = os.MkdirTemp(dir, "holdfast-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := os.Chmod(b.dir, 0o755); err != nil { // For Postfix's users.
		return err
	}
	selected, err := choose(names)
	if err != nil {
		return err
	}
	b.selected = names
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "What\tHoldfast\tBeside\tRatio\tWanted\t")
	var failed []error
	for _, r := range selected {
		b.say("%s", r.name)
		o, err := r.run(ctx, b)
		verdict := map[bool]string{true: "met", false: "MISSED"}[o.met]
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", r.name, err))
			o.holdfast, verdict = "failed: see below", ""
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", r.what, o.holdfast, o.peer, o.ratio, o.target, verdict)
	}
	fmt.Println()
	table.Flush()
	fmt.Print("\n" + b.notes())
	return errors.Join(failed...)
}

func choose(names []string) ([]row, error) {
	var selected []row
	for _, name := range names {
		found := false
		for _, r := range rows() {
			if r.name == name {
				selected, found = append(selected, r), true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no row %q", name)
		}
	}
	return selected, nil
}

// notes say under which conditions the figures came about.
func (b *bench) notes() string {
	version := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			return "unknown"
		}
		return strings.TrimSpace(string(out))
	}
	return fmt.Sprintf(`%s, %d processors, Linux %s, %s, Postfix %s.
%d sessions, connections reused, PIPELINING where offered; one generator for all.
Messages: log-normal, 2 KB to 5 MB, median 12 KB, mean 41 KB; 200 recipients, nine in ten messages to one of them.
Postfix accepts into its hold queue (accept) or relays to smtp-sink at once (forward);
without logging, name lookups and in_flow_delay. Holdfast accepts with all its projections running.
Where the factor times Postfix exceeds it, three quarters of what %s takes is the target.
`, time.Now().UTC().Format("2006-01-02 15:04 UTC"), runtime.NumCPU(), version("uname", "-r"), runtime.Version(),
		version("/usr/sbin/postconf", "-d", "-h", "mail_version"), b.sessions, sinkFlags)
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}
