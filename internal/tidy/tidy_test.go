package tidy

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestRepository runs every rule over every file that is tracked, or would be.
func TestRepository(t *testing.T) {
	findings := Check(repository(t), Exceptions())
	for _, f := range findings {
		t.Error(f)
	}
	if len(findings) > 0 {
		t.Logf("%d findings; an exception needs a reason in internal/tidy/exceptions.go", len(findings))
	}
}

// repository reads the files of the module this test is part of. Git says which
// they are, so that a build's leavings are not looked at.
func repository(t *testing.T) []Source {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	list := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatalf("list the repository's files: %v", err)
	}
	var sources []Source
	for name := range strings.SplitSeq(strings.Trim(string(out), "\x00"), "\x00") {
		file := filepath.Join(root, name)
		if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() {
			continue // Deleted but not committed yet, or a link to a file that is listed itself.
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, Source{Path: name, Data: data})
	}
	if !slices.ContainsFunc(sources, func(s Source) bool { return s.Path == "internal/tidy/tidy.go" }) {
		t.Fatalf("%d files listed, and this package not among them", len(sources))
	}
	return sources
}

// TestRules shows that each rule catches what it is for and passes what it
// should. The comment of each archive lists the findings, one a line: the rule,
// the file and the name.
func TestRules(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	shown := map[string]bool{}
	for _, file := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for line := range strings.Lines(string(archive.Comment)) {
				if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
					want = append(want, line)
					shown[strings.Fields(line)[0]] = true
				}
			}
			var got []string
			for _, f := range Check(sourcesOf(archive), nil) {
				if f.Rule != "dependencies" || strings.HasPrefix(filepath.Base(file), "dependencies") {
					got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s", f.Rule, f.File, f.Name)))
				}
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("findings:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
			}
		})
	}
	for _, r := range Rules() {
		if !shown[r.Name] && r.Name != "sizes" && r.Name != "words" { // These have tests of their own.
			t.Errorf("no archive shows that rule %s catches anything", r.Name)
		}
	}
}

// TestSizes shows the limits from both sides; the sources are made here because
// nobody wants to read them.
func TestSizes(t *testing.T) {
	function := func(lines int) string { return "func f() {\n" + strings.Repeat("\t_ = 0\n", lines-2) + "}\n" }
	tests := []struct {
		name, path, source string
		want               int
	}{
		{"function of 70", "event/a.go", "package event\n" + function(70), 0},
		{"function of 71", "event/a.go", "package event\n" + function(71), 1},
		{"method of 71", "event/a.go", "package event\ntype T struct{}\n" + strings.Replace(function(71), "func f", "func (*T) f", 1), 1},
		{"function of 71 in a test", "event/a_test.go", "package event\n" + function(71), 0},
		{"file of 500", "event/a.go", "package event\n" + strings.Repeat("// x\n", 499), 0},
		{"file of 501", "event/a.go", "package event\n" + strings.Repeat("// x\n", 500), 1},
		{"test file of 501", "event/a_test.go", "package event\n" + strings.Repeat("// x\n", 500), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tree, broken := New([]Source{{tt.path, []byte(tt.source)}})
			if len(broken) > 0 {
				t.Fatal(broken)
			}
			if got := Sizes(tree); len(got) != tt.want {
				t.Errorf("findings %v, want %d", got, tt.want)
			}
		})
	}
}

// TestWords shows that every forbidden word is found in any kind of file.
func TestWords(t *testing.T) {
	for _, w := range words {
		tree, _ := New([]Source{{"docs/a.md", []byte("one\ntwo " + w.word + "\n")}, {"docs/b.md", []byte("clean\n")}})
		got := Words(tree)
		if len(got) != 1 || got[0].File != "docs/a.md" || got[0].Line != 2 {
			t.Errorf("%q: findings %v, want one in line 2 of docs/a.md", w.word, got)
		}
	}
}

// TestExceptions shows that an exception takes away its finding and no other,
// and that one without need is a finding.
func TestExceptions(t *testing.T) {
	sources := []Source{
		{"docs/dependencies.md", nil},
		{"event/a.go", []byte("package event\nfunc init() {}\n")},
		{"message/a.go", []byte("package message\nfunc init() {}\n")},
	}
	needed := Exception{Rule: "init", File: "event/a.go", Name: "init", Reason: "test"}
	idle := Exception{Rule: "init", File: "crypto/a.go", Name: "init", Reason: "test"}
	got := Check(sources, []Exception{needed, idle})
	if len(got) != 2 || got[0].Rule != "exceptions" || got[0].File != "crypto/a.go" || got[1].File != "message/a.go" {
		t.Errorf("findings %v, want the idle exception and the finding in message", got)
	}
	for _, e := range Exceptions() {
		if e.Reason == "" {
			t.Errorf("exception %v has no reason", e)
		}
	}
}

// TestBroken shows that a file that does not parse is reported and the others
// are still looked at.
func TestBroken(t *testing.T) {
	got := Check([]Source{
		{"docs/dependencies.md", nil},
		{"event/a.go", []byte("package event\nfunc {\n")},
		{"event/b.go", []byte("package event\nfunc init() {}\n")},
	}, nil)
	if len(got) != 2 || got[0].Rule != "parse" || got[1].Rule != "init" {
		t.Errorf("findings %v, want one of parse and one of init", got)
	}
}

func sourcesOf(a *txtar.Archive) []Source {
	var sources []Source
	for _, f := range a.Files {
		sources = append(sources, Source{Path: f.Name, Data: bytes.Clone(f.Data)})
	}
	return sources
}
