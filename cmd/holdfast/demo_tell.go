package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// teller writes the demo's story: plain text, with colours only on a terminal.
// An error of writing is kept and ends the story.
type teller struct {
	w      io.Writer
	colour bool
	steps  int
	err    error
}

// newTeller tells to w. Colours are left out where NO_COLOR is set, whatever its
// value.
func newTeller(w io.Writer) *teller {
	t := &teller{w: w}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		_, no := os.LookupEnv("NO_COLOR")
		t.colour = !no && os.Getenv("TERM") != "dumb"
	}
	return t
}

const (
	bold  = "1"
	green = "32"
	cyan  = "36"
)

func (t *teller) paint(style, s string) string {
	if !t.colour {
		return s
	}
	return "\x1b[" + style + "m" + s + "\x1b[0m"
}

func (t *teller) write(s string) {
	if t.err == nil {
		_, t.err = io.WriteString(t.w, s)
	}
}

// step begins a step of the story.
func (t *teller) step(title string) {
	t.steps++
	t.write("\n" + t.paint(bold, fmt.Sprintf("%d. %s", t.steps, title)) + "\n")
}

// say tells a paragraph.
func (t *teller) say(format string, args ...any) {
	t.write("\n" + wrap(fmt.Sprintf(format, args...), "  ", "  "))
}

// checked tells what was verified just now.
func (t *teller) checked(format string, args ...any) {
	text := wrap(fmt.Sprintf(format, args...), "  checked: ", "           ")
	t.write(strings.Replace(text, "checked:", t.paint(green, "checked:"), 1))
}

// command shows what an administrator would type.
func (t *teller) command(args ...string) {
	var words []string
	for _, a := range append([]string{"holdfast"}, args...) {
		if strings.ContainsAny(a, " *$") {
			a = "'" + a + "'"
		}
		words = append(words, a)
	}
	t.write("\n  " + t.paint(cyan, "$ "+strings.Join(words, " ")) + "\n")
}

// output shows what a command or a server said, as it came.
func (t *teller) output(s string) {
	for line := range strings.Lines(s) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			line = "    " + line
		}
		t.write(line + "\n")
	}
}

// lineWidth fits the narrowest usual terminal.
const lineWidth = 78

// wrap breaks text into lines; first and rest indent them.
func wrap(text, first, rest string) string {
	var b strings.Builder
	line := first
	for _, word := range strings.Fields(text) {
		empty := strings.TrimSpace(line) == "" || line == first
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > lineWidth {
			b.WriteString(line + "\n")
			line, empty = rest, true
		}
		if !empty {
			line += " "
		}
		line += word
	}
	b.WriteString(line + "\n")
	return b.String()
}

// human writes a duration as a reader wants it.
func human(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// count writes a number with its noun.
func count[N int | int64 | uint64](n N, noun string) string { return plural(n, noun, noun+"s") }

// plural writes a number with the noun that fits it.
func plural[N int | int64 | uint64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
