package tidy

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

// lines are the layers from top to bottom. Imports go down only: a package may
// import packages of lower lines and those of its own family (itself and what is
// below its directory), never another family of its own line.
var lines = [][]string{
	{"cmd/holdfast", "cmd/smtpconform"},
	{"node"},
	{"smtpd", "imapgw", "web"},
	{"retention"},
	{"intake", "delivery", "shadow", "continuity", "auth", "directory"},
	{"projection"},
	{"eventlog"},
	{"objstore", "crypto"},
	{"event", "message"},
	{"internal/disk"},
	{"internal/turn", "internal/sabotage", "internal/failpoint", "internal/loopback"},
}

// beside are the families next to the product: they look at all of it and may
// import each other, and nothing of the product imports them.
var beside = []string{"e2e", "bench", "sim", "crash", "internal/tidy"}

// Layers checks that imports go down only.
//
// A _test.go file may import any package but those beside. A test-support
// package (one whose name ends in "test") may import what its family's tests may,
// and is imported only by tests, by other test-support packages, by packages
// beside, and by cmd/holdfast, whose demo plays a primary server.
//
// A package on no line is a finding: somebody has to decide where it stands.
func Layers(t *Tree) []Finding {
	var found []Finding
	for _, g := range t.Go {
		dir := g.Dir()
		family, line := place(dir)
		if line < 0 && !isBeside(dir) && dir != "." {
			found = append(found, Finding{Rule: "layers", File: g.Path, Name: dir, Text: "is on no line of the architecture: place it in internal/tidy"})
			continue
		}
		for _, spec := range g.AST.Imports {
			to, ours := ourPackage(spec.Path.Value)
			if !ours {
				continue
			}
			if why := refuse(g, dir, family, line, to); why != "" {
				found = append(found, t.finding(g, spec, "layers", to, why))
			}
		}
	}
	return found
}

// refuse says why a file must not import a package of ours, or nothing.
func refuse(g *GoFile, dir, family string, line int, to string) string {
	toFamily, toLine := place(to)
	loose := g.Test || isTestSupport(dir) || isBeside(dir)
	switch {
	case isBeside(to):
		if isBeside(dir) {
			return ""
		}
		return "stands beside the product, which does not import it"
	case isTestSupport(to):
		if loose || family == "cmd/holdfast" {
			return ""
		}
		return "is for tests only"
	case loose, toFamily == family, toLine > line:
		return ""
	case toLine == line:
		return "is on the same line: siblings are strangers"
	default:
		return "is above: imports go down only"
	}
}

// place returns the family of a package and the number of its line, from the
// top, or -1 if it is on none.
func place(dir string) (family string, line int) {
	for i, families := range lines {
		for _, f := range families {
			if within(dir, f) {
				return f, i
			}
		}
	}
	return "", -1
}

// ourPackage turns a quoted import path into a directory of this module.
func ourPackage(quoted string) (dir string, ours bool) {
	p, err := strconv.Unquote(quoted)
	if err != nil {
		return "", false
	}
	return strings.CutPrefix(p, ModulePath+"/")
}

func isTestSupport(dir string) bool { return strings.HasSuffix(path.Base(dir), "test") }

func isBeside(dir string) bool {
	return slices.ContainsFunc(beside, func(b string) bool { return within(dir, b) })
}
