package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/node"
)

func proveCommand() command {
	return command{
		name: "log prove", args: "(ID | PLACE) -o FILE", short: "Write evidence of one message or erasure, which others can check",
		long: `Writes an archive (tar) with the original message, the sealed event of its
acceptance, the keys of that event alone, and the hashes up to a checkpoint that
the node signed. Whoever has it and the installation's public key (holdfast keys
public) can check it with holdfast log check, without the bucket and without
asking anybody.

It holds the message in the clear, with the addresses of its envelope; the file is
for its owner alone. It can be made until the message expires, and holds for ever.

In place of an id it takes the place of an event in the log, PARTITION/SEGMENT/INDEX.
With the id or the place of an erasure, as holdfast erase prints them, it writes the
certificate of that, which holds nothing of the mail.

Works also while the node is down. docs/evidence.md says what it proves.`,
		flags: func(fs *flag.FlagSet, e *env) {
			fs.StringVar(&e.dir, "o", "", "the `FILE` to write; it must not exist")
		},
		run: prove,
	}
}

func prove(ctx context.Context, e *env) error {
	if err := e.want(1, 1, "one argument, the id of a message or of an erasure"); err != nil {
		return err
	}
	if e.dir == "" {
		return usagef("say where to: -o FILE")
	}
	return fetch(ctx, e, "/prove", node.ProveRequest{ID: e.args[0]}, func(body io.Reader) error { return proved(ctx, e, body) })
}

// proved writes evidence, and says what it is of.
func proved(ctx context.Context, e *env, body io.Reader) error {
	f, err := createNew(e.dir)
	if err != nil {
		return err
	}
	size, ev, err := keepProof(ctx, e, body, f)
	if err != nil {
		return err
	}
	if erased, ok := ev.Fact.(*event.Erased); ok {
		fmt.Fprintf(e.out, "certificate written to %s: %s erased\n", e.dir, erasedText(erased))
		return nil
	}
	if end, ok := ev.Fact.(*event.TenantEnded); ok {
		fmt.Fprintf(e.out, "certificate written to %s: tenant %s has ended\n", e.dir, printable(end.Name))
		return nil
	}
	fmt.Fprintf(e.out, "evidence written to %s, %s; it holds the message in the clear\n", e.dir, count(size, "byte"))
	return nil
}

// keepProof writes evidence into a new file, and checks it as a stranger would.
// When it fails the file is gone.
func keepProof(ctx context.Context, e *env, from io.Reader, f *os.File) (size int64, ev *eventlog.Evidence, err error) {
	if size, err = io.Copy(f, from); err == nil {
		ev, err = believed(ctx, e, f.Name(), size)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(f.Name()) // half a proof would pass for a whole one
		return 0, nil, fmt.Errorf("write %s: %w", f.Name(), err)
	}
	return size, ev, nil
}

// believed checks what was written as a stranger would.
func believed(ctx context.Context, e *env, path string, size int64) (*eventlog.Evidence, error) {
	key, err := ownKey(ctx, e)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ev, _, err := eventlog.CheckEvidence(f, size, key)
	return ev, err
}

// ownKey returns the public key of the installation that the configuration names.
func ownKey(ctx context.Context, e *env) (ed25519.PublicKey, error) {
	cfg, err := loadConfig(e)
	if err != nil {
		return nil, err
	}
	root, err := crypto.LoadRoot(cfg.RootKeyPath())
	if err != nil {
		return nil, err
	}
	return root.InstallationKey(ctx)
}

func checkCommand() command {
	return command{
		name: "log check", args: "FILE [--key KEY] [-o MESSAGE.eml] [--json]", short: "Check evidence of a message or erasure with nothing but the public key",
		long: `Needs neither bucket nor node nor configuration, and no network. Exits with 0 only
if the message in the file is, byte for byte, the one that the log of the
installation with this key holds at the place that is printed. The certificate of an
erasure holds no message: then it says what was erased, when, by whom and why, and
the digests of what had stood in the log.

The key is what holdfast keys public prints there, or a file with that. Without
--key it is taken from holdfast/installation.pub in the user's configuration
directory (~/.config), where it can be pinned once. It has to come over another way
than the evidence: whoever can choose the key can choose the evidence.`,
		flags: func(fs *flag.FlagSet, e *env) {
			fs.StringVar(&e.key, "key", "", "the installation's public `KEY`, or a file with it")
			fs.StringVar(&e.dir, "o", "", "write the message to this `FILE`; it must not exist")
			jsonFlag(fs, e)
		},
		run: check,
	}
}

func check(_ context.Context, e *env) error {
	if err := e.want(1, 1, "one argument, the file with the evidence"); err != nil {
		return err
	}
	key, err := givenKey(e.key)
	if err != nil {
		return err
	}
	f, err := os.Open(e.args[0])
	if err != nil {
		return fmt.Errorf("read the evidence: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", e.args[0])
	}
	if err != nil {
		return fmt.Errorf("read the evidence: %w", err)
	}
	ev, message, err := eventlog.CheckEvidence(f, info.Size(), key)
	if err != nil {
		return fmt.Errorf("%s: %w", e.args[0], err)
	}
	erased, ok := ev.Fact.(*event.Erased)
	if ok && e.dir != "" {
		return fmt.Errorf("%s is the certificate of an erasure: there is no message in it", e.args[0])
	}
	if ok {
		return tellErasure(e, ev, erased)
	}
	if end, ok := ev.Fact.(*event.TenantEnded); ok {
		if e.dir != "" {
			return fmt.Errorf("%s is the certificate of the end of a tenant: there is no message in it", e.args[0])
		}
		return tellEnd(e, ev, end)
	}
	if e.dir != "" {
		if err := extract(e.dir, message); err != nil {
			return err
		}
	}
	return tellEvidence(e, ev)
}

// givenKey reads the public key from a flag, a file, or where it is pinned.
func givenKey(given string) (ed25519.PublicKey, error) {
	if key, err := eventlog.ParseKey(given); err == nil {
		return key, nil
	}
	if given == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return nil, usagef("say which key: --key KEY, as holdfast keys public prints it")
		}
		given = filepath.Join(dir, "holdfast", "installation.pub")
		if _, err := os.Stat(given); err != nil {
			return nil, usagef("say which key: --key KEY, as holdfast keys public prints it, or keep it in %s", given)
		}
	}
	f, err := os.Open(given)
	if err != nil {
		return nil, usagef("--key is neither a public key nor a file with one; holdfast keys public prints it")
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<10))
	if err != nil {
		return nil, fmt.Errorf("read the public key: %w", err)
	}
	key, err := eventlog.ParseKey(string(b))
	if err != nil {
		return nil, usagef("%s: %v", given, err)
	}
	return key, nil
}

// proof is what a bundle proves, as JSON.
type proof struct {
	Log        string    `json:"log"`
	Tenant     string    `json:"tenant"`
	ID         string    `json:"id"`
	Partition  int       `json:"partition"`
	Segment    uint64    `json:"segment"`
	Index      int       `json:"index"`
	What       string    `json:"what"`
	Received   time.Time `json:"received"`
	Written    time.Time `json:"written"`
	Checkpoint uint64    `json:"checkpoint"`
	Signed     time.Time `json:"signed"`
	Size       int64     `json:"size"`
	SHA256     string    `json:"sha256"`
	From       string    `json:"from"`
	Rcpt       []string  `json:"rcpt"`
	Peer       string    `json:"peer"`
	Message    string    `json:"message,omitempty"` // the first id of a message that was kept
}

func tellEvidence(e *env, ev *eventlog.Evidence) error {
	p := proof{
		Log: ev.Log.String(), Tenant: ev.Tenant.String(), ID: ev.Ref.ID.String(),
		Partition: int(ev.Ref.Position.Partition), Segment: uint64(ev.Ref.Position.Seq), Index: int(ev.Ref.Position.Index),
		What: ev.Kind(), Received: ev.Received(), Written: time.UnixMilli(int64(ev.Written)).UTC(),
		Checkpoint: uint64(ev.Checkpoint.Seq), Signed: ev.Checkpoint.At(), Size: ev.Size, SHA256: hex.EncodeToString(ev.SHA256[:]), Rcpt: []string{},
	}
	if m, ok := ev.Fact.(*event.MessageAccepted); ok {
		p.From, p.Peer = m.Meta.From, m.Meta.Peer
		for _, r := range m.Meta.Recipients {
			p.Rcpt = append(p.Rcpt, r.Path)
		}
	}
	if ev.Kept != nil {
		p.Message = ev.Kept.Message.String()
	}
	if e.json {
		return e.writeJSON(p)
	}
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "the evidence holds")
	fmt.Fprintf(w, "message\t%s, SHA-256 %s\n", count(p.Size, "byte"), p.SHA256)
	fmt.Fprintf(w, "id\t%s, %s\n", p.ID, p.What)
	if p.Message != "" {
		fmt.Fprintf(w, "message\t%s, kept past its first day\n", p.Message)
	}
	fmt.Fprintf(w, "received\t%s\n", p.Received.Format(time.RFC3339Nano))
	if p.Peer != "" {
		fmt.Fprintf(w, "envelope\tfrom <%s> to <%s>, by %s\n", printable(p.From), printable(strings.Join(p.Rcpt, ">, <")), printable(p.Peer))
	}
	fmt.Fprintf(w, "place\tlog %s, partition %02x, segment %d, index %d, written %s\n", p.Log, p.Partition, p.Segment, p.Index, p.Written.Format(time.RFC3339Nano))
	fmt.Fprintf(w, "signed\tcheckpoint of segment %d, %s\n", p.Checkpoint, p.Signed.Format(time.RFC3339Nano))
	return w.Flush()
}
