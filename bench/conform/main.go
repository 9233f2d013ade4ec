// Command conform holds the suite of smtpd/conformance with Postfix, Exim and
// OpenSMTPD from Debian, and with Holdfast's own server, and writes who does what
// to docs/smtp-conformance.md.
//
//	bench/conform/fetch.sh && go run ./bench/conform -o docs/smtp-conformance.md
//
// Each server runs on loopback with a configuration of its own and relays all it
// takes to a sink, so that what it kept can be seen. It needs root, because the
// servers do.
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
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"holdfast/smtpd/conformance"
)

// What all peers are told.
const (
	domain   = "peer.test"
	user     = "alice"
	password = "secret"
)

func main() {
	out := flag.String("o", "", "write the comparison to this `file` (default: standard output)")
	dir := flag.String("peers", ".tools/peers", "`directory` that fetch.sh has filled")
	only := flag.String("only", "", "hold the suite with the servers whose name matches this `regexp` only, and say all")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir, *out, *only); err != nil {
		fmt.Fprintf(os.Stderr, "conform: %v\n", err)
		os.Exit(1)
	}
}

// peer is a server to hold the suite with.
type peer struct {
	name    string
	program string // two configurations of one program are one opinion
	about   string // version and what was set
	start   func(ctx context.Context, s site) (running, error)
	// version asks for it.
	version func(ctx context.Context) (string, error)
}

// running is a server that has been started.
type running struct {
	stop  func() error
	kept  conformance.Keeper // nil where the sink sees what it keeps
	clear bool               // nobody can log in, for want of TLS
	// parallel is how many conversations it bears at one time.
	parallel int
}

// site is where a peer works.
type site struct {
	dir        string // empty, its own, everybody may enter
	addr       string // host:port for strangers
	submission string // host:port for users
	relay      string // host:port of the sink
	cert, key  string // files
}

func run(ctx context.Context, fetched, out, only string) error {
	fetched, err := filepath.Abs(fetched)
	if err != nil {
		return err
	}
	chosen, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	all, err := conformance.Load()
	if err != nil {
		return err
	}
	var columns []conformance.Column
	var about []string
	for _, p := range peers(fetched) {
		if !chosen.MatchString(p.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "conform: %s\n", p.name)
		begin := time.Now()
		results, err := hold(ctx, p, all)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		version, err := p.version(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Fprintf(os.Stderr, "conform: %s took %v\n", p.name, time.Since(begin).Round(time.Second))
		columns = append(columns, conformance.Column{Name: p.name, Program: p.program, Results: results})
		about = append(about, fmt.Sprintf("- **%s**: %s. %s", p.name, version, p.about))
		if only != "" {
			conformance.WriteText(os.Stdout, results, false)
		}
	}
	if only != "" {
		return nil
	}
	if err := write(out, columns, about, len(all)); err != nil {
		return err
	}
	return judge(columns)
}

// judge returns an error if our own server does not pass, or does what nobody
// else does without saying why.
func judge(columns []conformance.Column) error {
	var all error
	for _, r := range columns[0].Results {
		if r.Verdict != conformance.Passes {
			all = errors.Join(all, fmt.Errorf("%s: %s %s: %s", columns[0].Name, r.Group(), r.Verdict, r.Detail))
		}
	}
	for _, r := range conformance.Outvoted(columns) {
		if r.Why == "" {
			all = errors.Join(all, fmt.Errorf("two peers do otherwise, and there is no why: %s", r.Group()))
		}
	}
	return all
}

// hold starts a peer, holds the suite with it and stops it.
func hold(ctx context.Context, p peer, all []conformance.Conversation) (results []conformance.Result, err error) {
	dir, err := os.MkdirTemp("", "conform-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	s := site{dir: dir, cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	if err := writeCertificate(s.cert, s.key); err != nil {
		return nil, err
	}
	sink := &conformance.Sink{Quiet: 5 * time.Second}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.relay = ln.Addr().String()
	serving, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- sink.Serve(serving, ln) }()
	defer func() { cancel(); <-done }()
	for _, a := range []*string{&s.addr, &s.submission} {
		if *a, err = freeAddr(); err != nil {
			return nil, err
		}
	}
	server, err := p.start(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	if err := waitForBanner(ctx, s.addr); err != nil {
		return nil, err
	}
	target := conformance.Target{
		Addr: s.addr, Submission: s.submission, Rcpt: "*@" + domain, Unknown: "unknown@" + domain,
		User: user, Password: password, Kept: sink, Timeout: 30 * time.Second,
	}
	if server.kept != nil {
		target.Kept = server.kept
	}
	if server.clear {
		target.Submission = ""
	}
	return conformance.Run(ctx, target, all, conformance.Options{Parallel: max(server.parallel, 1)})
}

// write writes the document.
func write(out string, columns []conformance.Column, about []string, conversations int) error {
	w := io.Writer(os.Stdout)
	if out != "" {
		f, err := os.Create(out)
		if err != nil {
			return err
		}
		defer f.Close()
		w = f
	}
	fmt.Fprintf(w, preface, conversations)
	for _, a := range about {
		fmt.Fprintln(w, a)
	}
	fmt.Fprintln(w)
	conformance.WriteComparison(w, columns)
	if f, ok := w.(*os.File); ok && out != "" {
		return f.Sync()
	}
	return nil
}

const preface = `# SMTP conformance: who does what

<!-- Generated by make smtp-peers. Do not edit. -->

%d conversations, held with each server on loopback: octets in packets, what came
back, and what the server then relayed to a sink. They are in
smtpd/conformance/conversations, and may be held with any server:

    go run ./cmd/smtpconform -addr host:25 -rcpt '*@example.org'

**passes** is what the cited text asks for, or where it leaves the choice, what
Holdfast does. **differs** is something else that the text allows. **fails** is
what it forbids, or what lets one sender speak in the name of another. Where a
server has not got an extension, its conversations are **not offered**.

`

// freeAddr returns an address on loopback that nobody listened on a moment ago.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// waitForBanner returns once a server at addr has greeted.
func waitForBanner(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err == nil {
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			greeting := make([]byte, 3)
			_, err = io.ReadFull(conn, greeting)
			io.WriteString(conn, "QUIT\r\n")
			io.Copy(io.Discard, conn)
			conn.Close()
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no greeting: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
