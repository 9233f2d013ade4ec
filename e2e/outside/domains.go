package outside

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Domain is one domain of a domains file.
type Domain struct {
	Name       string
	Tenant     string   // the first label of Name when empty
	Primary    []string // host:port each
	Outbound   string   // host:port of the smart host, or empty
	Continuity string   // "outage" when empty
	Recipients string   // "listed" when empty
	ShadowDays int      // 30 when 0
	Users      []User
}

// User is one user of a domain. One of Password and Hash is set.
type User struct {
	Address  string
	Aliases  []string
	Password string
	Hash     string
}

// Acme is the domain of the contract's file, with other servers.
func Acme(primary, outbound string) Domain {
	return Domain{
		Name: "acme.test", Primary: []string{primary}, Outbound: outbound,
		Users: []User{
			{Address: "alice@acme.test", Aliases: []string{"sales@acme.test"}, Password: "correct horse"},
			{Address: "bob@acme.test", Password: "battery staple"},
		},
	}
}

// Apply writes the domains into a file and applies it. It returns what the
// command printed.
func (n *Node) Apply(ctx context.Context, domains ...Domain) (string, error) {
	file := filepath.Join(n.Dir, "domains.toml")
	if err := os.WriteFile(file, []byte(domainsFile(domains)), 0o600); err != nil {
		return "", err
	}
	return n.Must(ctx, "apply", file)
}

func domainsFile(domains []Domain) string {
	var b strings.Builder
	for _, d := range domains {
		tenant, _, _ := strings.Cut(d.Name, ".")
		var primaries []string
		for _, p := range d.Primary {
			primaries = append(primaries, "smtp://"+p)
		}
		fmt.Fprintf(&b, "[[domain]]\nname = %q\ntenant = %q\nprimary = %s\n", d.Name, or(d.Tenant, tenant), quoteAll(primaries))
		if d.Outbound != "" {
			fmt.Fprintf(&b, "outbound = %q\n", "smtp://"+d.Outbound)
		}
		fmt.Fprintf(&b, "continuity = %q\nshadow_days = %d\nrecipients = %q\n", or(d.Continuity, "outage"), cmp.Or(d.ShadowDays, 30), or(d.Recipients, "listed"))
		b.WriteString("  [domain.health]\n  probe_every = \"1s\"\n  down_after = 3\n  up_after = 2\n\n")
	}
	for _, d := range domains {
		for _, u := range d.Users {
			fmt.Fprintf(&b, "[[user]]\naddress = %q\n", u.Address)
			if len(u.Aliases) > 0 {
				fmt.Fprintf(&b, "aliases = %s\n", quoteAll(u.Aliases))
			}
			if u.Hash != "" {
				fmt.Fprintf(&b, "password_hash = %q\n\n", u.Hash)
			} else {
				fmt.Fprintf(&b, "password = %q\n\n", u.Password)
			}
		}
	}
	return b.String()
}
