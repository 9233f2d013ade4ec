package conformance

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Column is what one server did, for a comparison.
type Column struct {
	Name    string
	Program string // two configurations of one program are one opinion
	Results []Result
}

// tally counts verdicts.
type tally map[Verdict]int

func count(results []Result, in func(*Conversation) bool) tally {
	t := tally{}
	for _, r := range results {
		if in(r.Conversation) {
			t[r.Verdict]++
		}
	}
	return t
}

func (t tally) total() int {
	n := 0
	for _, c := range t {
		n += c
	}
	return n
}

// String is short: "12", or "10 + 1 differ + 1 fails", or "–" where nothing was
// offered.
func (t tally) String() string {
	if t[NotOffered] == t.total() {
		return "–"
	}
	s := fmt.Sprint(t[Passes])
	for _, v := range []Verdict{Differs, Fails, NotOffered, Broken} {
		if t[v] > 0 {
			s += fmt.Sprintf(" / %d %s", t[v], v)
		}
	}
	return s
}

// WriteText writes what did not pass, a line each, and the counts by file. With
// all it writes every conversation.
func WriteText(w io.Writer, results []Result, all bool) {
	unseen := 0
	for _, r := range results {
		if r.Unseen {
			unseen++
		}
		if r.Verdict == Passes && !all {
			continue
		}
		fmt.Fprintf(w, "%-11s %-6s %s (%s)", r.Verdict, r.Level, r.Group(), r.Cite)
		if r.Detail != "" {
			fmt.Fprintf(w, ": %s", r.Detail)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
	for _, f := range groups(results) {
		fmt.Fprintf(w, "%-12s %s\n", f, count(results, func(c *Conversation) bool { return c.File == f }))
	}
	fmt.Fprintf(w, "%-12s %s\n", "all", count(results, func(*Conversation) bool { return true }))
	if unseen > 0 {
		fmt.Fprintf(w, "What the server kept could not be seen in %d conversations: give -sink.\n", unseen)
	}
}

// groups returns the files of the results, in their order.
func groups(results []Result) []string {
	var out []string
	for _, r := range results {
		if !slices.Contains(out, r.File) {
			out = append(out, r.File)
		}
	}
	return out
}

// WriteComparison writes Markdown: the counts by group and by RFC, and each
// conversation in which the servers differ. All columns must hold the results of
// the same conversations; the first column is ours.
func WriteComparison(w io.Writer, columns []Column) {
	results := columns[0].Results
	counts := func(title string, keys []string, in func(key string) func(*Conversation) bool) {
		fmt.Fprintf(w, "| %s | Held |", title)
		rule := "|---|---:|"
		for _, c := range columns {
			fmt.Fprintf(w, " %s |", c.Name)
			rule += "---|"
		}
		fmt.Fprintf(w, "\n%s\n", rule)
		for _, k := range keys {
			fmt.Fprintf(w, "| %s | %d |", k, count(results, in(k)).total())
			for _, c := range columns {
				fmt.Fprintf(w, " %s |", count(c.Results, in(k)))
			}
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprint(w, "## By group\n\n")
	counts("Group", append(groups(results), "all"), func(k string) func(*Conversation) bool {
		return func(c *Conversation) bool { return k == "all" || c.File == k }
	})
	fmt.Fprint(w, "## By standard\n\n")
	var rfcs []int
	for _, r := range results {
		if !slices.Contains(rfcs, r.RFC()) {
			rfcs = append(rfcs, r.RFC())
		}
	}
	slices.Sort(rfcs)
	var keys []string
	for _, n := range rfcs {
		keys = append(keys, fmt.Sprintf("RFC %d", n))
	}
	counts("Standard", keys, func(k string) func(*Conversation) bool {
		return func(c *Conversation) bool { return fmt.Sprintf("RFC %d", c.RFC()) == k }
	})
	writeOutvoted(w, columns)
	fmt.Fprint(w, "## Where the servers differ\n\n")
	for _, f := range groups(results) {
		writeGroup(w, f, columns)
	}
}

// Outvoted returns the conversations in which two programs or more, the first
// column's aside, do not pass: where we have to think again, and say why we stay.
func Outvoted(columns []Column) []Result {
	var out []Result
	for i, first := range columns[0].Results {
		if len(against(i, columns)) >= 2 {
			out = append(out, first)
		}
	}
	return out
}

// against returns the programs that do not pass a conversation.
func against(i int, columns []Column) []string {
	var programs []string
	for _, c := range columns[1:] {
		if v := c.Results[i].Verdict; (v == Differs || v == Fails) && !slices.Contains(programs, c.Program) {
			programs = append(programs, c.Program)
		}
	}
	return programs
}

// writeOutvoted writes them, those with one reason together.
func writeOutvoted(w io.Writer, columns []Column) {
	fmt.Fprint(w, "## Where two of them do otherwise, and why we stay\n\n")
	var reasons []string
	names := map[string][]string{}
	for i, r := range columns[0].Results {
		programs := against(i, columns)
		if len(programs) < 2 {
			continue
		}
		if _, ok := names[r.Why]; !ok {
			reasons = append(reasons, r.Why)
		}
		names[r.Why] = append(names[r.Why], fmt.Sprintf("%s (%s)", escape(r.Group()), strings.Join(programs, ", ")))
	}
	for _, why := range reasons {
		fmt.Fprintf(w, "- %s:\n  %s\n", escape(why), strings.Join(names[why], ";\n  "))
	}
	fmt.Fprintln(w)
}

// writeGroup writes the conversations of one file in which not all pass.
func writeGroup(w io.Writer, file string, columns []Column) {
	fmt.Fprintf(w, "### %s\n\n", file)
	any := false
	for i, first := range columns[0].Results {
		if first.File != file || !differ(i, columns) {
			continue
		}
		if !any {
			rule := "|---|---|"
			fmt.Fprint(w, "| Conversation | Rests on |")
			for _, c := range columns {
				fmt.Fprintf(w, " %s |", c.Name)
				rule += "---|"
			}
			fmt.Fprintf(w, "\n%s\n", rule)
			any = true
		}
		fmt.Fprintf(w, "| %s | %s, %s |", escape(first.Name), first.Cite, first.Level)
		for _, c := range columns {
			fmt.Fprintf(w, " %s |", cell(c.Results[i]))
		}
		fmt.Fprintln(w)
	}
	if !any {
		fmt.Fprintln(w, "Nowhere.")
	}
	fmt.Fprintln(w)
}

// cell is a result in a table.
func cell(r Result) string {
	switch r.Verdict {
	case Passes:
		return "✓"
	case NotOffered:
		return "–"
	}
	const most = 64
	detail := r.Detail
	if _, text, ok := strings.Cut(detail, ": "); ok && strings.HasPrefix(detail, "line ") {
		detail = text
	}
	// The words of a server change with every message; its code does not.
	detail = queued.ReplaceAllString(detail, "$1…\"")
	if len(detail) > most {
		detail = strings.ToValidUTF8(detail[:most], "") + "…"
	}
	return string(r.Verdict) + ": " + escape(detail)
}

// queued is an answer to a message, up to its identifier.
var queued = regexp.MustCompile(`("2\d\d[^"]*?)(?:queued as|id=|msgid=|[0-9a-f]{8} Message)[^"]*"`)

func differ(i int, columns []Column) bool {
	for _, c := range columns {
		if v := c.Results[i].Verdict; v != Passes && v != NotOffered {
			return true
		}
	}
	return false
}

// escape keeps text from being read as Markdown.
func escape(s string) string {
	r := strings.NewReplacer("|", "\\|", "<", "\\<", ">", "\\>", "*", "\\*", "_", "\\_", "`", "\\`", "[", "\\[", "\\", "\\\\")
	return r.Replace(s)
}
