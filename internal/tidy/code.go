package tidy

import (
	"bytes"
	"fmt"
	"go/ast"
	"path"
	"slices"
	"strconv"
)

// Limits of one file and one function, tests aside: what a reader can hold.
const (
	MaxFileLines     = 500
	MaxFunctionLines = 70
)

// Sizes checks the length of files and functions outside tests. A function's
// length counts from its func line to its closing brace, both included.
func Sizes(t *Tree) []Finding {
	var found []Finding
	for _, g := range t.Go {
		if g.Test {
			continue
		}
		if n := bytes.Count(g.Data, []byte("\n")); n > MaxFileLines {
			found = append(found, Finding{Rule: "sizes", File: g.Path, Name: g.Path, Text: fmt.Sprintf("has %d lines; at most %d", n, MaxFileLines)})
		}
		for _, d := range g.AST.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := t.Fset.Position(f.End()).Line - t.Fset.Position(f.Name.Pos()).Line + 1
			if n > MaxFunctionLines {
				found = append(found, t.finding(g, f, "sizes", functionName(f), fmt.Sprintf("has %d lines; at most %d", n, MaxFunctionLines)))
			}
		}
	}
	return found
}

// Sleep checks that no test sleeps in real time, which hides races and costs
// time. In a package whose tests use testing/synctest a sleep is allowed in
// helpers and in function literals, which are run in a bubble. The packages
// beside the product, and those called interop, wait for other programs and may
// sleep between two looks at them.
func Sleep(t *Tree) []Finding {
	var found []Finding
	inBubbles := map[string]bool{}
	for _, g := range t.Go {
		if g.Test && imports(g, "testing/synctest") {
			inBubbles[g.Dir()] = true
		}
	}
	for _, g := range t.Go {
		if !g.Test || isBeside(g.Dir()) || path.Base(g.Dir()) == "interop" {
			continue
		}
		bubbles := inBubbles[g.Dir()]
		for _, d := range g.AST.Decls {
			f, isFunc := d.(*ast.FuncDecl)
			if isFunc && bubbles && !isTestFunction(f) {
				continue
			}
			ast.Inspect(d, func(n ast.Node) bool {
				if _, literal := n.(*ast.FuncLit); literal && bubbles {
					return false
				}
				if e, ok := n.(ast.Expr); ok && isSelector(e, "time", "Sleep") {
					found = append(found, t.finding(g, n, "sleep", "time.Sleep", "tests wait for what they want to see, or run in a synctest bubble"))
				}
				return true
			})
		}
	}
	return found
}

// Skip checks that no test skips itself: a test that may not run proves nothing.
// What a test needs is installed before it, or it fails.
func Skip(t *Tree) []Finding {
	var found []Finding
	for _, g := range t.Go {
		if !g.Test && !isTestSupport(g.Dir()) {
			continue
		}
		ast.Inspect(g.AST, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			for _, receiver := range []string{"t", "b", "f", "tb"} {
				for _, method := range []string{"Skip", "Skipf", "SkipNow"} {
					if isSelector(call.Fun, receiver, method) {
						found = append(found, t.finding(g, n, "skip", receiver+"."+method, "tests are not skipped"))
					}
				}
			}
			return true
		})
	}
	return found
}

// Init checks that no package registers itself or does anything else at import.
func Init(t *Tree) []Finding {
	var found []Finding
	for _, g := range t.Go {
		for _, d := range g.AST.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				found = append(found, t.finding(g, f, "init", "init", "packages do nothing when they are imported"))
			}
		}
	}
	return found
}

func functionName(f *ast.FuncDecl) string {
	if f.Recv == nil || len(f.Recv.List) == 0 {
		return f.Name.Name
	}
	recv := f.Recv.List[0].Type
	for {
		switch r := recv.(type) {
		case *ast.StarExpr:
			recv = r.X
		case *ast.IndexExpr:
			recv = r.X
		case *ast.IndexListExpr:
			recv = r.X
		case *ast.Ident:
			return r.Name + "." + f.Name.Name
		default:
			return f.Name.Name
		}
	}
}

// isTestFunction says whether the go command would call f.
func isTestFunction(f *ast.FuncDecl) bool {
	if f.Recv != nil {
		return false
	}
	return slices.ContainsFunc([]string{"Test", "Benchmark", "Fuzz", "Example"}, func(p string) bool {
		return len(f.Name.Name) >= len(p) && f.Name.Name[:len(p)] == p
	})
}

func isSelector(e ast.Expr, x, sel string) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != sel {
		return false
	}
	id, ok := s.X.(*ast.Ident)
	return ok && id.Name == x
}

func imports(g *GoFile, library string) bool {
	return slices.ContainsFunc(g.AST.Imports, func(s *ast.ImportSpec) bool {
		return s.Path.Value == strconv.Quote(library)
	})
}
