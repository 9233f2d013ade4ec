// Package tidy states the rules of this repository that a machine can check,
// and checks them. Its test runs every rule over the whole module, so that
// breaking one breaks the build; a rule of taste belongs into a review instead.
//
// A rule is a function from the sources to findings. A finding that has to stay
// is written into the list of exceptions with its reason; an exception that no
// longer excepts anything is a finding itself.
package tidy

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"slices"
	"strings"
)

// ModulePath is the path of the module whose rules these are.
const ModulePath = "holdfast"

// A Finding is one place that breaks one rule.
type Finding struct {
	Rule string // as in Rules
	File string // slash-separated, from the root of the module
	Line int    // from 1; 0 where the whole file is meant
	Name string // what breaks it: a function, a variable, an import path
	Text string // the rule and how far it is missed, for a reader
}

// String formats a finding so that an editor can jump to it.
func (f Finding) String() string {
	return fmt.Sprintf("%s:%d: %s: %s: %s", f.File, f.Line, f.Rule, f.Name, f.Text)
}

// A Source is one file of the repository.
type Source struct {
	Path string // slash-separated, from the root of the module
	Data []byte
}

// A GoFile is one parsed Go file.
type GoFile struct {
	Source
	AST  *ast.File
	Test bool // its name ends in _test.go
}

// Dir is the directory of the file, "." for the root.
func (g *GoFile) Dir() string { return path.Dir(g.Path) }

// A Tree is what the rules look at: every file that is or would be tracked, and
// the Go files among them parsed. It is not changed after New and may be shared.
type Tree struct {
	Sources []Source
	Go      []*GoFile
	Fset    *token.FileSet
}

// New parses the Go files among the sources. Files under a testdata directory
// and those of nested modules are sources but not Go files of this module. A
// file that does not parse is a finding, not an error, so that the other files
// are still looked at.
func New(sources []Source) (*Tree, []Finding) {
	t := &Tree{Sources: sources, Fset: token.NewFileSet()}
	nested := nestedModules(sources)
	var broken []Finding
	for _, s := range sources {
		if !strings.HasSuffix(s.Path, ".go") || slices.Contains(strings.Split(path.Dir(s.Path), "/"), "testdata") ||
			slices.ContainsFunc(nested, func(dir string) bool { return within(path.Dir(s.Path), dir) }) {
			continue
		}
		file, err := parser.ParseFile(t.Fset, s.Path, s.Data, parser.ParseComments)
		if err != nil {
			broken = append(broken, Finding{Rule: "parse", File: s.Path, Text: err.Error()})
			continue
		}
		t.Go = append(t.Go, &GoFile{Source: s, AST: file, Test: strings.HasSuffix(s.Path, "_test.go")})
	}
	return t, broken
}

// Rules are all rules by name, in the order in which they are reported.
func Rules() []Rule {
	return []Rule{
		{"layers", Layers},
		{"cages", Cages},
		{"sizes", Sizes},
		{"sleep", Sleep},
		{"skip", Skip},
		{"init", Init},
		{"state", State},
		{"dependencies", Dependencies},
		{"words", Words},
	}
}

// A Rule looks at the whole tree and returns what breaks it.
type Rule struct {
	Name  string
	Check func(*Tree) []Finding
}

// Check runs every rule, takes away the exceptions, and returns what is left
// sorted by place. An exception that matched nothing is returned as a finding.
func Check(sources []Source, exceptions []Exception) []Finding {
	tree, found := New(sources)
	for _, r := range Rules() {
		found = append(found, r.Check(tree)...)
	}
	used := make([]bool, len(exceptions))
	found = slices.DeleteFunc(found, func(f Finding) bool {
		i := slices.IndexFunc(exceptions, func(e Exception) bool {
			return e.Rule == f.Rule && e.File == f.File && e.Name == f.Name
		})
		if i >= 0 {
			used[i] = true
		}
		return i >= 0
	})
	for i, e := range exceptions {
		if !used[i] {
			found = append(found, Finding{Rule: "exceptions", File: e.File, Name: e.Name, Text: "excepted from rule " + e.Rule + " without need: take the exception away"})
		}
	}
	slices.SortFunc(found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Name, b.Name))
	})
	return found
}

// finding places a finding at a node of a file.
func (t *Tree) finding(g *GoFile, n ast.Node, rule, name, text string) Finding {
	return Finding{Rule: rule, File: g.Path, Line: t.Fset.Position(n.Pos()).Line, Name: name, Text: text}
}

// nestedModules are the directories, other than the root, that hold a go.mod.
func nestedModules(sources []Source) []string {
	var dirs []string
	for _, s := range sources {
		if path.Base(s.Path) == "go.mod" && s.Path != "go.mod" {
			dirs = append(dirs, path.Dir(s.Path))
		}
	}
	return dirs
}

// within says whether dir is root or below it.
func within(dir, root string) bool { return dir == root || strings.HasPrefix(dir, root+"/") }
