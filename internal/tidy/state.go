package tidy

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// State checks that packages hold no mutable state, tests aside. Without types
// it is a heuristic, which finds a package-level variable that
//
//   - has no initial value (so somebody sets it later; go:embed is excepted),
//   - is made for change: a channel, a lock, an atomic, a metric, or
//   - is assigned, counted, indexed into from the left, deleted from, or has its
//     address taken by any function of its package.
//
// Sentinel errors, tables and compiled expressions that nobody writes to pass. So
// does a sync.Pool, which holds nothing that anybody could miss, and the
// description of a metric, which is not the metric.
func State(t *Tree) []Finding {
	packages := map[string][]*GoFile{}
	var order []string
	for _, g := range t.Go {
		if g.Test || isTestSupport(g.Dir()) {
			continue
		}
		if _, ok := packages[g.Dir()]; !ok {
			order = append(order, g.Dir())
		}
		packages[g.Dir()] = append(packages[g.Dir()], g)
	}
	var found []Finding
	for _, dir := range order {
		found = append(found, packageState(t, packages[dir])...)
	}
	return found
}

// variable is one package-level variable of the package being looked at.
type variable struct {
	file *GoFile
	name *ast.Ident
	spec *ast.ValueSpec
}

func packageState(t *Tree, files []*GoFile) []Finding {
	var found []Finding
	vars := map[string]variable{}
	for _, g := range files {
		for _, v := range packageVariables(g) {
			if why := madeForChange(v.spec); why != "" {
				found = append(found, t.finding(g, v.name, "state", v.name.Name, why))
				continue
			}
			vars[v.name.Name] = v
		}
	}
	for _, g := range files {
		for _, d := range g.AST.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
				found = append(found, writes(t, g, f, vars)...)
			}
		}
	}
	return found
}

// packageVariables are the variables that g declares, but for the blank ones
// (assertions) and those the go command embeds files into.
func packageVariables(g *GoFile) []variable {
	var vars []variable
	for _, d := range g.AST.Decls {
		gen, ok := d.(*ast.GenDecl)
		if !ok || gen.Tok != token.VAR {
			continue
		}
		for _, s := range gen.Specs {
			spec := s.(*ast.ValueSpec)
			if embeds(gen.Doc) || embeds(spec.Doc) {
				continue
			}
			for _, name := range spec.Names {
				if name.Name != "_" {
					vars = append(vars, variable{g, name, spec})
				}
			}
		}
	}
	return vars
}

func embeds(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool {
		return strings.HasPrefix(c.Text, "//go:embed ")
	})
}

// madeForChange says why the declaration alone makes the variable mutable.
func madeForChange(spec *ast.ValueSpec) string {
	if len(spec.Values) == 0 {
		// An array of a fixed size without a value is a table of zeros, which is
		// used as a constant; a write to it is found like any other.
		if a, ok := spec.Type.(*ast.ArrayType); ok && a.Len != nil {
			return ""
		}
		return "has no initial value, so it is set later: packages hold no mutable state"
	}
	why := ""
	for _, root := range append([]ast.Expr{spec.Type}, spec.Values...) {
		if root == nil {
			continue
		}
		ast.Inspect(root, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncLit:
				return false
			case *ast.ChanType:
				why = "is a channel: packages hold no mutable state"
			case *ast.SelectorExpr:
				if isSelector(n, "sync", "Pool") || isSelector(n, "prometheus", "NewDesc") || isSelector(n, "prometheus", "Desc") {
					return true
				}
				if id, ok := n.X.(*ast.Ident); ok && slices.Contains([]string{"sync", "atomic", "prometheus", "promauto"}, id.Name) {
					why = "is a " + id.Name + "." + n.Sel.Name + ": packages hold no mutable state"
				}
			}
			return true
		})
	}
	return why
}

// writes finds the places in f that change one of vars.
func writes(t *Tree, g *GoFile, f *ast.FuncDecl, vars map[string]variable) []Finding {
	var found []Finding
	report := func(n ast.Node, e ast.Expr, how string) {
		id := root(e)
		if id == nil {
			return
		}
		v, ok := vars[id.Name]
		// A name that the parser resolved to something inside this file other than
		// the variable's declaration is a local of the same name.
		if !ok || (id.Obj != nil && id.Obj.Decl != v.spec) {
			return
		}
		found = append(found, t.finding(g, n, "state", id.Name, how+" by "+functionName(f)+": packages hold no mutable state"))
	}
	ast.Inspect(f.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for _, e := range n.Lhs {
				if n.Tok != token.DEFINE {
					report(n, e, "is assigned")
				}
			}
		case *ast.IncDecStmt:
			report(n, n.X, "is counted")
		case *ast.UnaryExpr:
			if n.Op == token.AND {
				report(n, n.X, "has its address taken")
			}
		case *ast.CallExpr:
			if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "delete" || id.Name == "clear") && len(n.Args) > 0 {
				report(n, n.Args[0], "is emptied")
			}
		}
		return true
	})
	return found
}

// root is the identifier at the left end of x.y[z], or nil.
func root(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		default:
			return nil
		}
	}
}
