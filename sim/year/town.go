package year

import (
	"bytes"
	"context"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/delivery/smtpc/smtptest"
	"holdfast/directory"
	"holdfast/sim/residue"
	"holdfast/sim/world"
)

const password = "three-hundred-and-sixty-five"

// domain is one that is kept for some days.
type domain struct {
	name, tenant, host string
	users              []string
}

// domains are the town: a customer with two domains, and one who keeps mail for
// some days only.
var domains = []domain{
	{"pelican.test", "acme", "mx.pelican.test", []string{"alice@pelican.test", "bob@pelican.test"}},
	{"annex.test", "acme", "mx.pelican.test", []string{"carol@annex.test"}},
	{"gannet.test", "beta", "mx.gannet.test", []string{"dora@gannet.test", "emil@gannet.test"}},
}

// users are all users, in order.
func users() (out []string) {
	for _, d := range domains {
		out = append(out, d.users...)
	}
	return out
}

// domainOf returns a user's domain.
func domainOf(user string) domain {
	_, name, _ := strings.Cut(user, "@")
	return domains[slices.IndexFunc(domains, func(d domain) bool { return d.name == name })]
}

// file is the directory of the town.
func file(days map[string]int) directory.File {
	var f directory.File
	downAfter, upAfter := 2, 1
	for _, d := range domains {
		keep := days[d.name]
		f.Domains = append(f.Domains, directory.FileDomain{
			Name: d.name, Tenant: d.tenant, Primary: []string{"smtp://" + d.host + ":25?tls=none"}, Continuity: "always", ShadowDays: &keep,
			Health: directory.FileHealth{ProbeEvery: "10m", DownAfter: &downAfter, UpAfter: &upAfter},
		})
		for _, u := range d.users {
			f.Users = append(f.Users, directory.FileUser{Address: u, PasswordHash: world.CheapHash(password, u)})
		}
	}
	return f
}

// primary is a domain's own server. It notes which letters it has got.
type primary struct {
	w      *World
	host   string
	server *smtptest.Server
	ear    net.Listener // nil while it is down
	over   sync.WaitGroup
	lost   int // answers to the final dot that it lost: so many messages may come twice
}

func (w *World) newPrimary(host string) *primary {
	p := &primary{w: w, host: host}
	p.server = smtptest.New(smtptest.Options{Hostname: host, OnMessage: p.record})
	return p
}

func (p *primary) record(t smtptest.Transaction) {
	a := arrival{at: p, body: t.Body}
	for _, r := range t.Recipients {
		a.to = append(a.to, r.To)
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.arrived = append(p.w.arrived, a)
}

// arrival is a message that a primary has got.
type arrival struct {
	at   *primary
	to   []string
	body []byte
}

func (p *primary) up() error {
	ear, err := p.w.net.Listen(context.Background(), "tcp", p.host+":25")
	if err != nil {
		return err
	}
	p.ear = ear
	p.server.Resume()
	p.over.Go(func() {
		for {
			c, err := ear.Accept()
			if err != nil {
				return
			}
			p.over.Go(func() { p.server.Serve(c) })
		}
	})
	return nil
}

// amnesia is how long a primary that came back does not know its users: shorter
// than refusals are mistrusted (package delivery/health).
const amnesia = 20 * time.Minute

// upEmpty comes back with an empty directory, for a while. What it refuses is held.
func (p *primary) upEmpty() error {
	refuse := smtptest.Action{Reply: "550 5.1.1 nobody of that name"}
	p.server.Script(smtptest.Script{At: map[smtptest.Phase]smtptest.Action{smtptest.Rcpt: refuse}})
	if err := p.up(); err != nil {
		return err
	}
	time.Sleep(amnesia)
	p.server.Script(smtptest.Script{})
	return nil
}

// lose loses the answers to its next final dots.
func (p *primary) lose(n int) {
	p.lost = n
	p.server.Script(smtptest.Script{At: map[smtptest.Phase]smtptest.Action{smtptest.Dot: {Drop: true, Times: n}}})
}

// down cuts all connections, as a crash does.
func (p *primary) down() {
	if p.ear == nil {
		return
	}
	p.ear.Close()
	p.server.Stop()
	p.over.Wait()
	p.ear = nil
}

// collect takes down what has arrived since it was last called.
func (w *World) collect() {
	w.mu.Lock()
	got := w.arrived
	w.arrived = nil
	w.mu.Unlock()
	for _, a := range got {
		for _, m := range residue.MarksIn(a.body[:min(len(a.body), 1000)]) {
			l := w.ledger.letters[m]
			if l == nil {
				w.finds("delivery", "a primary got %s, which nobody sent", m)
				continue
			}
			if !bytes.HasSuffix(a.body, l.body) || len(a.body) > len(l.body)+1000 {
				w.finds("delivery", "%s arrived as %d bytes that are not those %d that were sent", m, len(a.body), len(l.body))
			}
			for _, to := range a.to {
				if !l.due[to] && a.at.lost > 0 {
					a.at.lost--
				} else if !l.due[to] {
					w.finds("delivery", "%s arrived at %s, for whom it was not due (%s)", m, to, l.tell())
				}
				l.due[to] = false
			}
		}
	}
}

// shadowDays are how long the domains keep mail at the beginning.
func shadowDays() map[string]int {
	return maps.Clone(map[string]int{"pelican.test": 20, "annex.test": 8, "gannet.test": 3})
}
