package world

import (
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"

	"holdfast/directory"
	"holdfast/sim/check"
)

// The town: two customers. One has two domains, whose users are always admitted;
// the other's come in while their primary is down.
const (
	acme, annex, beta = "pelican.test", "annex.test", "gannet.test"
	acmeHost          = "mx.pelican.test"
	betaHost          = "mx.gannet.test"
	smartHost         = "out.pelican.test"
	far               = "farawaysenders.test"
)

// hosts are the servers that are not ours.
var hosts = []string{acmeHost, betaHost, smartHost}

// residents are the users, by their addresses.
var residents = []string{"alice@" + acme, "bob@" + acme, "carol@" + annex, "dora@" + beta, "emil@" + beta}

// What every message has, by which it would be recognised where it must not be
// legible.
const (
	subjectWords = "Quarterly figures of the lighthouse"
	textWords    = "the keeper counts seventeen cormorants"
	boxWords     = "Lighthouse-Papers"
	flagWord     = "keeperssecretflag"
	senderWords  = "correspondent-of-the-keeper"
)

// words are what must not be legible.
func words() check.History {
	mail := []string{subjectWords, textWords, senderWords, far}
	all := append([]string{boxWords, flagWord, password}, mail...)
	all = append(all, residents[:]...)
	return check.History{Words: all, MailWords: mail}
}

const password = "seven-seas-and-a-gull"

// File is the directory of the town.
func (w *World) File() directory.File {
	days := 7
	health := directory.FileHealth{DotTimeout: "20s"}
	f := directory.File{Domains: []directory.FileDomain{
		{Name: acme, Tenant: "acme", Primary: []string{upstream(acmeHost)}, Outbound: upstream(smartHost), Continuity: "always", ShadowDays: &days, Health: health},
		{Name: annex, Tenant: "acme", Primary: []string{upstream(acmeHost)}, Outbound: upstream(smartHost), Continuity: "always", ShadowDays: &days, Health: health},
		{Name: beta, Tenant: "beta", Primary: []string{upstream(betaHost)}, Outbound: upstream(smartHost), Continuity: "outage", Health: health},
	}}
	for _, r := range residents {
		f.Users = append(f.Users, directory.FileUser{Address: r, PasswordHash: CheapHash(password, r)})
	}
	return f
}

// LeastDays and MostDays bound what the domains keep.
const LeastDays, MostDays = 7, 30

func upstream(host string) string { return "smtp://" + host + ":25?tls=none" }

// CheapHash is the cheapest hash of a password that package auth takes. The salt
// has at least eight bytes.
func CheapHash(password, salt string) string {
	const memory, passes, threads = 4 << 10, 1, 1
	s := []byte(salt)[:8]
	k := argon2.IDKey([]byte(password), s, passes, memory, threads, 16)
	enc := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, memory, passes, threads, enc(s), enc(k))
}

// letter is a message to be sent.
type letter struct {
	token string // what is unique in it; empty for an empty message
	from  string
	to    []string // not accepted anywhere yet
	body  []byte
	tries int
}

// newLetter writes a message of some size.
func (i *inhabitant) newLetter(from string, to []string, size int) *letter {
	l := &letter{from: from, to: to}
	if size == 0 {
		return l
	}
	l.token = fmt.Sprintf("letter-%016x", i.rng.Uint64())
	var b strings.Builder
	fmt.Fprintf(&b, "From: <%s>\r\nTo: <%s>\r\nSubject: %s %s\r\nMessage-ID: <%s@%s>\r\nDate: Sat, 01 Jan 2000 00:00:00 +0000\r\n\r\n",
		or(from, "nobody@"+far), to[0], subjectWords, l.token, l.token, far)
	fmt.Fprintf(&b, "%s\r\n.%s\r\n..\r\n", l.token, textWords)
	for b.Len() < size {
		line := make([]byte, min(size-b.Len(), 1+i.rng.IntN(900)))
		for j := range line {
			line[j] = byte(' ' + i.rng.IntN(224)) // no CR and no LF; all others from space on
		}
		b.Write(line)
		b.WriteString("\r\n")
	}
	l.body = []byte(b.String())
	return l
}

// size draws a size: empty, small, medium, or large enough for blobs.
func (i *inhabitant) size() int {
	switch p := i.rng.IntN(100); {
	case p < i.world.cfg.Size.Large:
		return 280_000 + i.rng.IntN(280_000)
	case p < 90:
		return 200 + i.rng.IntN(2000)
	case p < 95:
		return 2000 + i.rng.IntN(60_000)
	default:
		return 0
	}
}

func or(s, t string) string {
	if s == "" {
		return t
	}
	return s
}
