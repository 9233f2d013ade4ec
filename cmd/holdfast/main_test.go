package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

func TestParseAnywhere(t *testing.T) {
	for _, tc := range []struct {
		args string
		rest string
		c    string
		json bool
		bad  bool
	}{
		{args: "status --json -c f", rest: "status", c: "f", json: true},
		{args: "-c f status --json", rest: "status", c: "f", json: true},
		{args: "shadow -c=f search -json", rest: "shadow search", c: "f", json: true},
		{args: "export a -c f b", rest: "export a b", c: "f"},
		{args: "export -- -c f", rest: "export -c f"},
		{args: "export a -- --json", rest: "export a --json"},
		{args: "", rest: ""},
		{args: "status --nope x", rest: "status", bad: true},
		{args: "status -c", rest: "status", bad: true},
	} {
		fs := flag.NewFlagSet("test", flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		c, j := fs.String("c", "", ""), fs.Bool("json", false, "")
		rest, err := parseAnywhere(fs, strings.Fields(tc.args))
		if got := strings.Join(rest, " "); got != tc.rest || (err != nil) != tc.bad || *j != tc.json || !tc.bad && *c != tc.c {
			t.Errorf("%q: rest %q, -c %q, --json %v, %v", tc.args, got, *c, *j, err)
		}
	}
}

func TestFlagTrouble(t *testing.T) {
	for args, want := range map[string]string{
		"--nope":      "there is no flag --nope",
		"-x":          "there is no flag -x",
		"-c":          "the flag -c needs a value",
		"--limit 2.5": `"2.5" is no value for --limit`,
		"--json=1.5":  `invalid boolean value "1.5" for -json: parse error`,
	} {
		fs := flag.NewFlagSet("test", flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		fs.String("c", "", "")
		fs.Int("limit", 0, "")
		fs.Bool("json", false, "")
		_, err := parseAnywhere(fs, strings.Fields(args))
		if err == nil || flagTrouble(err) != want {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}

func TestParseTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for in, want := range map[string]time.Time{
			"":                              {},
			"2h":                            now.Add(-2 * time.Hour),
			"3d":                            now.Add(-72 * time.Hour),
			"1.5d":                          now.Add(-36 * time.Hour),
			"1h30m":                         now.Add(-90 * time.Minute),
			"0s":                            now,
			"2026-01-31T08:00:00Z":          time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC),
			"2026-01-31T08:00:00.25Z":       time.Date(2026, 1, 31, 8, 0, 0, 250e6, time.UTC),
			"2026-01-31T10:00:00+02:00":     time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC),
			"2026-01-31T08:00:00.000000Z":   time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC),
			"2026-01-31T03:00:00.000-05:00": time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC),
		} {
			if got, err := parseTime("--since", in, now); err != nil || !got.Equal(want) {
				t.Errorf("%q is %v, %v; want %v", in, got, err, want)
			}
		}
		for _, in := range []string{"-2h", "-3d", "d", "yesterday", "2026-01-31", "NaNd", "Infd", "1e300d", "5"} {
			_, err := parseTime("--since", in, now)
			if _, ok := errors.AsType[*usageError](err); !ok {
				t.Errorf("%q is taken, or fails with %v", in, err)
			}
		}
	})
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain Grüße 日本":  "plain Grüße 日本",
		"\x1b[31mred\r\n": "?[31mred??",
		"\u009bC1":        "?C1",
		"\u202egnp.exe":   "?gnp.exe",
		"\u2066isolated":  "?isolated",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q is printed as %q, want %q", in, got, want)
		}
	}
}

func TestWrap(t *testing.T) {
	text := strings.Repeat("word löng ", 60) + strings.Repeat("x", 200) + " end"
	got := wrap(text, "  first: ", "         ")
	for i, line := range strings.Split(strings.TrimSuffix(got, "\n"), "\n") {
		if n := utf8.RuneCountInString(line); n > lineWidth && !strings.Contains(line, "xxx") {
			t.Errorf("line %d has %d characters", i, n)
		}
		if indent := map[bool]string{true: "  first: ", false: "         "}[i == 0]; !strings.HasPrefix(line, indent) || strings.HasPrefix(line, indent+" ") {
			t.Errorf("line %d is %q", i, line)
		}
	}
	if !slices.Equal(strings.Fields(got)[1:], strings.Fields(text)) {
		t.Error("words are lost")
	}
}

// TestPlainText: no colours where the story does not go to a terminal.
func TestPlainText(t *testing.T) {
	var b bytes.Buffer
	d := newTeller(&b)
	d.step("A step")
	d.say("A paragraph with %d words.", 5)
	d.checked("it is checked.")
	d.command("shadow", "search", "--subject", "two words")
	d.output("one\n\ntwo\r\n")
	want := "\n1. A step\n\n  A paragraph with 5 words.\n  checked: it is checked.\n\n  $ holdfast shadow search --subject 'two words'\n    one\n\n    two\n"
	if b.String() != want || d.err != nil {
		t.Errorf("%q, %v", b.String(), d.err)
	}
}

func TestCutReceived(t *testing.T) {
	for in, want := range map[string]string{
		"Received: a\r\n\tb\r\n c\r\nSubject: x\r\n\r\n": "Subject: x\r\n\r\n",
		"Received: a\r\n":                    "",
		"Received: a\r\nReceived: b\r\n\r\n": "Received: b\r\n\r\n",
	} {
		if got, ok := cutReceived(in); !ok || got != want {
			t.Errorf("%q leaves %q, %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "Subject: x\r\n\r\n", "Received: never ends"} {
		if _, ok := cutReceived(in); ok {
			t.Errorf("%q has a Received field", in)
		}
	}
}

// TestTracesAreFound: what the demo says is nowhere would be found if it were.
func TestTracesAreFound(t *testing.T) {
	const word = "astrolabes"
	hidden := map[string]string{
		"plain": "x" + word + "y", "capitals": "ASTROLABES",
		"utf16":   "a\x00s\x00t\x00r\x00o\x00l\x00a\x00b\x00e\x00s\x00",
		"nothing": "astro-labes",
	}
	for shift := range 3 {
		hidden[fmt.Sprint("base64 ", shift)] = base64.StdEncoding.EncodeToString([]byte(strings.Repeat("#", shift) + word + "!!"))
	}
	for name, text := range hidden {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := searchFiles(traces(word, "something else"), dir, filepath.Join(dir, "missing"))
		if err != nil || got.files != 1 || got.bytes != int64(len(text)) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if want := name != "nothing"; (len(got.found) == 1) != want {
			t.Errorf("%s: found %v", name, got.found)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, word), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := searchFiles(traces(word), dir); err != nil || len(got.found) != 1 {
		t.Errorf("in a name: %+v, %v", got, err)
	}
}

func TestOneLine(t *testing.T) {
	err := advised(fmt.Errorf("the file is wrong:\n%w", errors.Join(errors.New("one"), errNotRunning)))
	if got := oneLine(err); got != "the file is wrong: one; "+errNotRunning.Error() {
		t.Errorf("%q", got)
	}
}

// TestGroups: each group of commands says what it is about.
func TestGroups(t *testing.T) {
	words := map[string]bool{}
	for _, c := range commands() {
		if word, _, ok := strings.Cut(c.name, " "); ok {
			words[word] = true
		}
	}
	for word := range words {
		if groups[word] == "" {
			t.Errorf("holdfast %s --help says nothing", word)
		}
	}
	if len(words) != len(groups) {
		t.Errorf("%d groups are explained, and there are %d", len(groups), len(words))
	}
}
