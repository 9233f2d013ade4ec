package tidy

import (
	"slices"
	"strconv"
	"strings"
)

// cages say which packages may import which third-party library; a directory
// stands for itself and what is below it. An empty list means tests only, "*"
// means everywhere: what is so small and so close to the standard library that
// a cage would cost more than it keeps in.
var cages = []struct {
	library string
	keepers []string
}{
	{"github.com/minio/minio-go", []string{"objstore/s3"}},
	{"github.com/dgraph-io/badger", []string{"projection"}},
	{"github.com/emersion/go-imap", []string{"imapgw"}},
	{"github.com/emersion/go-sasl", []string{"imapgw"}},
	{"github.com/ThreeDotsLabs/watermill", []string{"eventlog/bus", "node"}},
	{"github.com/fxamacker/cbor", []string{"event", "eventlog"}},
	{"github.com/klauspost/compress", []string{"crypto", "eventlog"}},
	{"github.com/jhillyerd/enmime", []string{"message"}},
	{"github.com/BurntSushi/toml", []string{"node"}},
	{"github.com/prometheus/client_golang", []string{"node"}},
	{"github.com/rogpeppe/go-internal", nil},
	{"golang.org/x/crypto", []string{"crypto", "auth"}},
	{"golang.org/x/mod", []string{"eventlog"}},
	{"golang.org/x/term", []string{"cmd/holdfast"}},
	{"golang.org/x/net", []string{"message", "smtpd", "delivery"}},
	{"golang.org/x/text", []string{"message"}},
	{"golang.org/x/tools", nil},
	{"golang.org/x/sync", []string{"*"}},
	{"golang.org/x/sys", []string{"*"}},
}

// Cages checks that each third-party library is imported only where it is kept,
// and that each has a cage. Tests, test-support packages and packages beside the
// product may import any library that has one.
func Cages(t *Tree) []Finding {
	var found []Finding
	for _, g := range t.Go {
		dir := g.Dir()
		if dir == "." {
			continue
		}
		for _, spec := range g.AST.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil || !strings.Contains(strings.SplitN(p, "/", 2)[0], ".") {
				continue
			}
			i := slices.IndexFunc(cages, func(c struct {
				library string
				keepers []string
			}) bool {
				return within(p, c.library)
			})
			switch {
			case i < 0:
				found = append(found, t.finding(g, spec, "cages", p, "has no cage: decide in internal/tidy who may import it"))
			case g.Test || isTestSupport(dir) || isBeside(dir):
			case !keeps(cages[i].keepers, dir):
				found = append(found, t.finding(g, spec, "cages", p, "is caged in "+strings.Join(append(cages[i].keepers, "tests"), ", ")))
			}
		}
	}
	return found
}

func keeps(keepers []string, dir string) bool {
	return slices.ContainsFunc(keepers, func(k string) bool { return k == "*" || within(dir, k) })
}
