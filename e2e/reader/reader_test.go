package reader

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore"
	"holdfast/objstore/mem"
)

const (
	dir    = "../../docs/reader"
	sample = dir + "/sample"
	url    = "file:/var/lib/holdfast/bucket"
)

// python returns an interpreter that has what the reader needs.
var python = sync.OnceValues(func() (string, error) {
	var last error
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		out, err := exec.Command(name, "-c", "import cryptography").CombinedOutput()
		if err == nil {
			return name, nil
		}
		last = errors.Join(err, errors.New(string(out)))
	}
	return "", errors.Join(errors.New("no python3 with the package cryptography; run: make setup"), last)
})

// run runs the reader on a bucket and returns what it wrote.
func run(t *testing.T, before string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	name, err := python()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := before + "\nimport runpy, sys; sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[2:]; runpy.run_path(sys.argv[0], run_name='__main__')"
	cmd := exec.CommandContext(ctx, name, append([]string{"-B", "-c", start, dir, dir + "/read.py"}, args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

func TestReaderReadsWhatTheLogReads(t *testing.T) {
	want := facts(t)
	for name, before := range map[string]string{
		"as it is":                         "",
		"without the library's ML-KEM-768": "import sys; sys.modules['cryptography.hazmat.primitives.asymmetric.mlkem'] = None",
		"with the program zstd":            "import sys; sys.modules['zstandard'] = sys.modules['compression'] = None",
	} {
		t.Run(name, func(t *testing.T) {
			mail := filepath.Join(t.TempDir(), "mail")
			stdout, stderr, code := run(t, before, sample+"/bucket", "--root", sample+"/root.key", "-o", mail, "--raw")
			if code != 0 || !strings.Contains(stderr, " 0 damaged") {
				t.Fatalf("exit %d: %s", code, stderr)
			}
			lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(stdout), "\n"), func(s string) bool { return strings.Contains(s, `"ended": true`) })
			if !strings.Contains(stderr, " 2 of tenants that have ended") {
				t.Errorf("of a message and the last event of a tenant it says: %s", stderr)
			}
			if len(lines) != len(want) {
				t.Errorf("%d events, want %d", len(lines), len(want))
			}
			for i, text := range lines[:min(len(lines), len(want))] {
				var got line
				if err := json.Unmarshal([]byte(text), &got); err != nil {
					t.Fatal(err)
				}
				if !got.equal(want[i]) {
					t.Errorf("event %d is\n%+v, want\n%+v", i, got, want[i])
				}
			}
			sameFiles(t, mail, sample+"/messages")
		})
	}
}

// line is what both readers say of an event.
type line struct {
	At, ID, Tenant string
	Time           int64
	Kind           string
	Expired        bool
	Raw            [2]*string
}

func (l line) equal(o line) bool {
	same := func(a, b *string) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) }
	return l.At == o.At && l.ID == o.ID && l.Tenant == o.Tenant && l.Time == o.Time && l.Kind == o.Kind && l.Expired == o.Expired &&
		same(l.Raw[0], o.Raw[0]) && same(l.Raw[1], o.Raw[1])
}

// facts reads the sample with the log.
func facts(t *testing.T) (all []line) {
	t.Helper()
	key := filepath.Join(t.TempDir(), "root.key") // git keeps no mode 0600
	if err := os.WriteFile(key, read(t, sample+"/root.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := crypto.LoadRoot(key)
	if err != nil {
		t.Fatal(err)
	}
	b := mem.New()
	for name, raw := range files(t, sample+"/bucket") {
		if _, err := b.Put(t.Context(), name, bytes.NewReader(raw), int64(len(raw)), objstore.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	log, err := eventlog.Open(t.Context(), eventlog.Options{Bucket: b, URL: url, Keys: root, Inspect: true})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close(context.Background())
	for p := range event.Partition(log.Partitions()) {
		for r, err := range log.Read(t.Context(), p, eventlog.Cursor{}) {
			if err != nil {
				t.Fatal(err)
			}
			state, meta := event.Encode(r.Fact)
			kind := strings.TrimPrefix(fmt.Sprintf("%T", r.Fact), "*event.")
			l := line{
				At: r.Ref.Position.String(), ID: r.Ref.ID.String(), Tenant: r.Tenant.String(), Time: int64(r.Time), Kind: kind,
				Expired: r.Expiry != 0 && meta == nil, Raw: [2]*string{hexed(state), hexed(meta)},
			}
			all = append(all, l)
		}
	}
	return all
}

func hexed(b []byte) *string {
	if b == nil {
		return nil
	}
	s := hex.EncodeToString(b)
	return &s
}

// TestReaderSeesDamage changes one thing in a copy of the sample at a time.
func TestReaderSeesDamage(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	all := files(t, sample+"/bucket")
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	segment := func(n string) string { return "log/02/000000000000000000" + n }
	blob := names[slices.IndexFunc(names, func(s string) bool { return strings.HasPrefix(s, "blob/") })]
	type damage struct {
		name, says string
		do         func(b map[string][]byte)
	}
	expired := names[slices.IndexFunc(names, func(s string) bool { return strings.HasPrefix(s, "key/2026-03-03/") })]
	damages := []damage{
		{"a key page whose day is over is another", expired, func(b map[string][]byte) { b[expired] = bytes.Repeat([]byte("x"), 1181) }},
		{"a segment is gone", segment("03"), func(b map[string][]byte) { delete(b, segment("03")) }},
		{"two segments are swapped", segment("04"), func(b map[string][]byte) {
			b[segment("04")], b[segment("05")] = b[segment("05")], b[segment("04")]
		}},
		{"a segment is another partition's", segment("04"), func(b map[string][]byte) { b[segment("04")] = b["log/00/00000000000000000004"] }},
		{"a segment is cut short", segment("02"), func(b map[string][]byte) { b[segment("02")] = b[segment("02")][:len(b[segment("02")])-1] }},
		{"a stranger lies among the segments", "log/02/x", func(b map[string][]byte) { b["log/02/x"] = nil }},
		{"the tail is gone", "checkpoint/02", func(b map[string][]byte) {
			for name := range b {
				if name > segment("20") && strings.HasPrefix(name, "log/02/") {
					delete(b, name)
				}
			}
		}},
		{"a checkpoint is another partition's", "checkpoint/02", func(b map[string][]byte) {
			b["checkpoint/02/00000000000000000004"] = b["checkpoint/00/00000000000000000006"]
		}},
		{"a blob part is gone", blob, func(b map[string][]byte) { delete(b, blob) }},
		{"blob parts are swapped", blob, func(b map[string][]byte) {
			second := strings.TrimSuffix(blob, "0000") + "0001"
			b[blob], b[second] = b[second], b[blob]
		}},
		{"the bucket is described anew", "format", func(b map[string][]byte) {
			b["format"] = bytes.Replace(b["format"], []byte("file:/var"), []byte("file:/vat"), 1)
		}},
	}
	for _, i := range rng.Perm(len(names))[:20] {
		name := names[i]
		at := rng.IntN(len(all[name]) * 8)
		if name == "format" {
			continue // most of its bits are blank; see above
		}
		says := name
		if strings.HasPrefix(name, "log/") {
			says = "" // some are told by the event's position
		}
		damages = append(damages, damage{"a bit of " + name, says, func(b map[string][]byte) {
			b[name] = bytes.Clone(b[name])
			b[name][at/8] ^= 1 << (at % 8)
		}})
	}
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			changed := maps.Clone(all)
			d.do(changed)
			to := t.TempDir()
			for name, raw := range changed {
				path := filepath.Join(to, filepath.FromSlash(name))
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, raw, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, stderr, code := run(t, "", to, "--root", sample+"/root.key")
			if code != 1 || !strings.Contains(stderr, "DAMAGED") || !strings.Contains(stderr, d.says) || strings.Contains(stderr, "Traceback") {
				t.Errorf("exit %d: %s", code, stderr)
			}
		})
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// files returns what lies below a directory, by its path with slashes.
func files(t *testing.T, root string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, path)
		all[filepath.ToSlash(name)] = read(t, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func sameFiles(t *testing.T, got, want string) {
	t.Helper()
	g, w := files(t, got), files(t, want)
	for name := range w {
		if b, ok := g[name]; !ok || !bytes.Equal(b, w[name]) {
			t.Errorf("%s: %d bytes, want %d", name, len(b), len(w[name]))
		}
		delete(g, name)
	}
	for name := range g {
		t.Errorf("%s was never sent", name)
	}
}
