package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/crash/judge"
	"holdfast/internal/disk"
	"holdfast/internal/failpoint"
)

// TestForgottenSyncsAreNoticed: a bucket that does not fsync its files, or its
// directories, or its files only after they have their names, breaks promises
// that the judge sees.
func TestForgottenSyncsAreNoticed(t *testing.T) {
	for _, c := range []struct {
		sabotage string
		points   []failpoint.Point
	}{
		{disk.SkipFile, []failpoint.Point{failpoint.SegmentDurable, failpoint.ReplySaid}},
		{disk.SkipDir, []failpoint.Point{failpoint.SegmentDurable, failpoint.ReplySaid}},
		{disk.LateFile, []failpoint.Point{failpoint.FSNamed}},
		{disk.NoFlush, []failpoint.Point{failpoint.FSNamed}},
	} {
		t.Run(c.sabotage, func(t *testing.T) {
			t.Parallel()
			tally := NewTally()
			for n := range uint64(12) {
				opt := options(t, tally)
				opt.Seed, opt.Sabotage, opt.Points = n+1, c.sabotage, c.points
				err := runWorld(t.Context(), opt)
				if broken, ok := errors.AsType[*Broken](err); ok {
					t.Logf("noticed in world %d after %d kills: %.300s", n+1, tally.Total, broken.Complaints[0])
					return
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			t.Errorf("%d kills, and nothing was noticed", tally.Total)
		})
	}
}

// healthy runs a world without faults worth the name and returns its record. Its
// bucket stays as long as the test.
func healthy(t *testing.T) (judge.Record, string) {
	t.Helper()
	dir, err := worldDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	opt := options(t, NewTally())
	opt.Dir, opt.Seed, opt.Kills = dir, 4, 9
	if err := Run(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	return readRecord(t, dir), dir
}

func readRecord(t *testing.T, dir string) (rec judge.Record) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "record.json"))
	if err == nil {
		err = json.Unmarshal(raw, &rec)
	}
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// TestFalsehoodsAreNoticed changes what was seen, one thing at a time, and wants
// the judge to say so. Each change is a broken promise of another kind.
func TestFalsehoodsAreNoticed(t *testing.T) {
	_, dir := healthy(t)
	for name, c := range map[string]struct {
		change func(r *judge.Record)
		want   string
	}{
		"nothing": {func(r *judge.Record) {}, ""},
		"250 for what is nowhere": {func(r *judge.Record) {
			r.Sent = append(r.Sent, judge.Sent{N: 9999, To: []string{bob}, SHA256: sum(nil), Answer: judge.Kept, ID: strings.Repeat("ab", 16)})
		}, "is not in the log"},
		"other bytes":        {func(r *judge.Record) { aKept(r).SHA256 = sum([]byte("other")) }, "has other bytes"},
		"4xx that was kept":  {func(r *judge.Record) { s := aKept(r); s.Answer, s.Reply = judge.Refused, "451" }, "not repudiated"},
		"5xx":                {func(r *judge.Record) { aKept(r).Answer = judge.Wrong }, "refused for good"},
		"sent by nobody":     {func(r *judge.Record) { r.Sent = r.Sent[1:] }, "was sent by nobody"},
		"delivery that came": {func(r *judge.Record) { r.Arrivals = r.Arrivals[1:] }, "never came"},
		"delivered in vain": {func(r *judge.Record) {
			r.Arrivals = append(r.Arrivals, judge.Arrival{To: bob, SHA256: sum(nil), Trace: true})
		}, "that is not in the log"},
		"delivered twice":         {func(r *judge.Record) { r.Arrivals = append(r.Arrivals, onceOnly(r)) }, "times"},
		"without the trace":       {func(r *judge.Record) { r.Arrivals[0].Trace = false }, "trace line"},
		"books":                   {func(r *judge.Record) { r.Balanced = false }, "balance"},
		"UIDVALIDITY":             {func(r *judge.Record) { lastView(r).UIDValidity++ }, "UIDVALIDITY"},
		"UIDNEXT":                 {func(r *judge.Record) { lastView(r).UIDNext = 1 }, "UIDNEXT was"},
		"a UID of another":        {func(r *judge.Record) { swap(lastView(r)) }, "is message"},
		"a UID gone":              {func(r *judge.Record) { delete(lastView(r).Messages, anyUID(lastView(r))) }, "was there and is not"},
		"a low UID":               {func(r *judge.Record) { lowUID(r) }, "is new, and UIDNEXT was"},
		"a flag lost":             {func(r *judge.Record) { loseFlag(lastView(r)) }, "for certain"},
		"a flag by nobody":        {func(r *judge.Record) { setFlag(lastView(r)) }, "nobody set"},
		"a flag not done":         {func(r *judge.Record) { flagFirst(r) }, "for certain"},
		"an expunge not done":     {func(r *judge.Record) { expungeFirst(r) }, "was expunged and is there"},
		"an append not done":      {func(r *judge.Record) { appendFirst(r) }, "is not there"},
		"250 not shown":           {func(r *judge.Record) { hideFirst(r) }, "got 250 before the view"},
		"two UIDs of one message": {func(r *judge.Record) { doubleUID(lastView(r)) }, "UIDs"},
	} {
		t.Run(name, func(t *testing.T) {
			rec := readRecord(t, dir)
			c.change(&rec)
			wrong, err := judge.Judge(t.Context(), &rec)
			if err != nil {
				t.Fatal(err)
			}
			all := strings.Join(wrong, "\n")
			if c.want == "" && all != "" || !strings.Contains(all, c.want) {
				t.Errorf("the judge says %q, want something about %q", all, c.want)
			}
		})
	}
	t.Run("the bucket", func(t *testing.T) { damageIsNoticed(t, dir) })
}

func aKept(r *judge.Record) *judge.Sent {
	return &r.Sent[slices.IndexFunc(r.Sent, func(s judge.Sent) bool { return s.Answer == judge.Kept })]
}

// onceOnly returns an arrival that came once.
func onceOnly(r *judge.Record) judge.Arrival {
	for _, a := range r.Arrivals {
		n := 0
		for _, b := range r.Arrivals {
			if a == b {
				n++
			}
		}
		if n == 1 {
			return a
		}
	}
	panic("everything came twice")
}

func lastView(r *judge.Record) *judge.Step {
	for i := len(r.Steps) - 1; ; i-- {
		if r.Steps[i].Kind == judge.View && r.Steps[i].Mailbox == "INBOX" {
			return &r.Steps[i]
		}
	}
}

func anyUID(s *judge.Step) (low uint32) {
	for uid := range s.Messages {
		if low == 0 || uid < low {
			low = uid
		}
	}
	return low
}

func swap(s *judge.Step) {
	a, b := anyUID(s), uint32(0)
	for uid := range s.Messages {
		b = max(b, uid)
	}
	s.Messages[a], s.Messages[b] = s.Messages[b], s.Messages[a]
}

func lowUID(r *judge.Record) {
	s := lastView(r)
	s.Messages[s.UIDNext+5] = judge.Message{Number: "x"}
	later := *s
	later.Messages = map[uint32]judge.Message{}
	for uid, m := range s.Messages {
		later.Messages[uid] = m
	}
	s.UIDNext += 10
	later.UIDNext = s.UIDNext
	later.Messages[s.UIDNext-2] = judge.Message{Number: "y"}
	r.Steps = append(r.Steps, later)
}

func loseFlag(s *judge.Step) {
	for uid, m := range s.Messages {
		if m.Flags != "" {
			m.Flags = ""
			s.Messages[uid] = m
		}
	}
}

func setFlag(s *judge.Step) {
	uid := anyUID(s)
	m := s.Messages[uid]
	m.Flags += " $Strange"
	s.Messages[uid] = m
}

// before puts a step before the last view.
func before(r *judge.Record, step judge.Step) {
	for i := range r.Steps {
		if &r.Steps[i] == lastView(r) {
			r.Steps = slices.Insert(r.Steps, i, step)
			return
		}
	}
}

func flagFirst(r *judge.Record) {
	before(r, judge.Step{Kind: judge.Flag, Mailbox: "INBOX", OK: true, UID: anyUID(lastView(r)), Flags: "$Done"})
}

func expungeFirst(r *judge.Record) {
	before(r, judge.Step{Kind: judge.Expunge, Mailbox: "INBOX", OK: true, UID: anyUID(lastView(r))})
}

func appendFirst(r *judge.Record) {
	before(r, judge.Step{Kind: judge.Append, Mailbox: "INBOX", OK: true, Number: "own-x"})
}

// hideFirst takes a message out of INBOX that the last view had to show.
func hideFirst(r *judge.Record) {
	last := lastView(r)
	i := slices.IndexFunc(r.Sent, func(m judge.Sent) bool {
		return m.Answer == judge.Kept && m.Heard < last.Began && slices.ContainsFunc(slices.Collect(maps.Values(last.Messages)), func(shown judge.Message) bool {
			return shown.Number == m.Number()
		})
	})
	for _, step := range r.Steps {
		if step.Mailbox == "INBOX" {
			maps.DeleteFunc(step.Messages, func(_ uint32, shown judge.Message) bool { return shown.Number == r.Sent[i].Number() })
		}
	}
}

func doubleUID(s *judge.Step) {
	s.Messages[s.UIDNext] = s.Messages[anyUID(s)]
	s.UIDNext++
}

// damageIsNoticed damages the bucket itself, the gravest last.
func damageIsNoticed(t *testing.T, dir string) {
	rec := readRecord(t, dir)
	segments, err := filepath.Glob(filepath.Join(dir, "bucket", "log", "*", "*"))
	if err != nil || len(segments) < 3 {
		t.Fatalf("%d segments, %v", len(segments), err)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "bucket", "key", "2*", "*", "*"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("%d key pages, %v", len(pages), err)
	}
	for _, c := range []struct {
		name   string
		damage func() error
	}{
		{"key pages removed", func() error {
			for _, p := range pages {
				if err := os.Remove(p); err != nil {
					return err
				}
			}
			return nil
		}},
		{"a segment cut short", func() error { return os.Truncate(segments[len(segments)-1], 3000) }},
		{"a segment removed", func() error { return os.Remove(segments[len(segments)-2]) }},
		{"the root key removed", func() error { return os.Remove(rec.Config.RootKey) }},
	} {
		if err := c.damage(); err != nil {
			t.Fatal(err)
		}
		wrong, err := judge.Judge(t.Context(), &rec)
		if err != nil || len(wrong) == 0 {
			t.Errorf("%s: the judge says %v, %v", c.name, wrong, err)
		}
	}
}

// TestNothingGoesAroundTheJournal: what must survive a crash is written through
// package disk alone. Somebody who adds a call of another kind here has to add it
// there, with what a power failure does to it.
func TestNothingGoesAroundTheJournal(t *testing.T) {
	files, err := filepath.Glob("../objstore/fs/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	// What only reads, and constants, types and errors.
	harmless := map[string][]string{
		"os":      {"O_RDWR", "O_WRONLY", "O_RDONLY", "O_CREATE", "O_EXCL", "Stat", "Lstat", "Open", "LinkError", "FileInfo", "FileMode", "DirEntry", "ErrNotExist", "ErrExist"},
		"unix":    {"LOCK_EX", "LOCK_NB", "LOCK_UN", "ENOTDIR", "EISDIR", "ENOSPC", "EDQUOT", "EWOULDBLOCK", "EINTR", "EIO", "Stat_t", "S_IFMT", "S_IFREG", "S_IFDIR"},
		"syscall": {"LOCK_EX", "Stat_t"},
	}
	for _, name := range append(files, "../crypto/rootfile.go") {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, bad := range calls(t, name, harmless) {
			t.Errorf("%s: put it into internal/disk, with what a power failure does to it", bad)
		}
	}
}

// calls returns the uses of the packages in harmless that are not.
func calls(t *testing.T, name string, harmless map[string][]string) (bad []string) {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range f.Imports {
		if spec.Name != nil && (spec.Name.Name == "." || harmless[spec.Name.Name] == nil && strings.HasSuffix(spec.Path.Value, `sys/unix"`)) {
			bad = append(bad, fmt.Sprintf("%s imports %s as %s", name, spec.Path.Value, spec.Name.Name))
		}
		if p := strings.Trim(spec.Path.Value, `"`); p == "unsafe" || p == "io/ioutil" || p == "os/exec" {
			bad = append(bad, fmt.Sprintf("%s imports %s", name, p))
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := s.X.(*ast.Ident); ok && harmless[x.Name] != nil && !slices.Contains(harmless[x.Name], s.Sel.Name) {
			bad = append(bad, fmt.Sprintf("%v: %s.%s", fset.Position(s.Pos()), x.Name, s.Sel.Name))
		}
		return true
	})
	return bad
}
