package tidy

import (
	"bytes"
	"regexp"
	"strings"
)

// dependenciesFile explains every direct dependency: what it does here, why it
// and not another, and where it is caged.
const dependenciesFile = "docs/dependencies.md"

// Dependencies checks that every module which go.mod requires directly is named
// in docs/dependencies.md.
func Dependencies(t *Tree) []Finding {
	var doc, mod []byte
	exists := false
	for _, s := range t.Sources {
		switch s.Path {
		case dependenciesFile:
			doc, exists = s.Data, true
		case "go.mod":
			mod = s.Data
		}
	}
	if !exists {
		return []Finding{{Rule: "dependencies", File: dependenciesFile, Text: "is missing: it explains every direct dependency"}}
	}
	var found []Finding
	for i, line := range strings.Split(string(mod), "\n") {
		module, ok := directRequirement(line)
		if ok && !bytes.Contains(doc, []byte(withoutMajor(module))) {
			found = append(found, Finding{Rule: "dependencies", File: "go.mod", Line: i + 1, Name: module, Text: "is not explained in " + dependenciesFile})
		}
	}
	return found
}

// directRequirement reads a line of go.mod such as "x.org/y v1.2.3", inside or
// outside a require block.
func directRequirement(line string) (module string, ok bool) {
	if strings.Contains(line, "// indirect") {
		return "", false
	}
	fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
	if len(fields) < 2 || !strings.HasPrefix(fields[1], "v") || !strings.Contains(fields[0], ".") {
		return "", false
	}
	return fields[0], true
}

// withoutMajor takes the /v2 off a module path: a document that says
// minio-go v7 has said it.
func withoutMajor(module string) string {
	return regexp.MustCompile(`/v[0-9]+$`).ReplaceAllString(module, "")
}

// words are strings that no tracked file may hold, and why. They are written in
// two pieces, so that this file does not hold them either.
var words = []struct{ word, why string }{
	{"proxy." + "golang.org", "names a package registry: what is used is named by module path"},
	{"sum." + "golang.org", "names a package registry: what is used is named by module path"},
	{"registry." + "npmjs.org", "names a package registry: what is used is named by package"},
	{"deb." + "debian.org", "names a package registry: what is used is named by package"},
	{"pypi." + "org", "names a package registry: what is used is named by package"},
	{"/work/" + "main", "is a path of one machine"},
	{"/work/" + "shared", "is a path of one machine"},
	{"FIX" + "ME", "is work left undone: do it, or write it down where it is planned"},
	{"TO" + "DO(", "is work left undone: do it, or write it down where it is planned"},
	{"Clau" + "de", "is not about the project"},
	{"Chat" + "GPT", "is not about the project"},
}

// Words checks that no tracked file holds a string of the forbidden list.
func Words(t *Tree) []Finding {
	var found []Finding
	for _, s := range t.Sources {
		for _, w := range words {
			i := bytes.Index(s.Data, []byte(w.word))
			if i >= 0 {
				found = append(found, Finding{Rule: "words", File: s.Path, Line: 1 + bytes.Count(s.Data[:i], []byte("\n")), Name: w.word, Text: w.why})
			}
		}
	}
	return found
}
