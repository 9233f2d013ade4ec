package message

import (
	"slices"
	"strings"
)

// What stands in an address in place of something the header does not have.
// Mail clients know these words: they are Dovecot's.
const (
	MissingMailbox = "MISSING_MAILBOX"
	MissingDomain  = "MISSING_DOMAIN"
	SyntaxError    = "SYNTAX_ERROR"
	invalidRoute   = "INVALID_ROUTE"
)

// Address is one entry of an IMAP address list (RFC 9051 §7.5.2). A group is
// an entry with only a Mailbox, its name, then the members, then an empty
// entry. Any other entry has a Mailbox and a Host, if need be the words
// [MissingMailbox], [MissingDomain] or [SyntaxError].
type Address struct {
	// Name is the display name, encoded words still encoded.
	Name string `cbor:"1,keyasint,omitempty"`
	// Route is the obsolete source route, such as "@a,@b".
	Route   string `cbor:"2,keyasint,omitempty"`
	Mailbox string `cbor:"3,keyasint,omitempty"`
	Host    string `cbor:"4,keyasint,omitempty"`
}

// IsGroupStart reports whether a begins a group, whose name is a.Mailbox.
func (a Address) IsGroupStart() bool { return a.Host == "" && a.Mailbox != "" }

// IsGroupEnd reports whether a ends a group.
func (a Address) IsGroupEnd() bool { return a == Address{} }

// DecodedName returns the display name as text.
func (a Address) DecodedName() string { return DecodeHeader([]byte(a.Name)) }

// IsValid reports whether a is an address rather than a mark of a group or
// the remains of something unreadable.
func (a Address) IsValid() bool {
	return a.Mailbox != "" && a.Host != "" && a.Mailbox != MissingMailbox &&
		a.Host != MissingDomain && a.Host != SyntaxError
}

// Addr returns mailbox@host, the mailbox quoted if it has to be, or "" if a is
// not valid.
func (a Address) Addr() string {
	if !a.IsValid() {
		return ""
	}
	if isDotAtom(a.Mailbox) {
		return a.Mailbox + "@" + a.Host
	}
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	return `"` + quote.Replace(a.Mailbox) + `"@` + a.Host
}

func isDotAtom(s string) bool {
	for word := range strings.SplitSeq(s, ".") {
		if word == "" {
			return false
		}
		for i := range len(word) {
			if !isAtext(word[i]) {
				return false
			}
		}
	}
	return true
}

// ParseAddressList reads the value of an address field such as To. It reads
// on behind what it cannot read, from the next comma or semicolon, and
// returns at most [MaxAddresses] entries. Nothing between two commas is none.
func ParseAddressList(raw []byte) []Address {
	p := addressParser{lex: lexer{b: raw}, left: MaxAddresses}
	for p.lex.skipSpace() != ended && p.left > 0 {
		if p.lex.at(',') || p.lex.at(';') {
			p.lex.i++
			continue
		}
		start := p.lex.i
		p.list()
		if p.lex.i == start {
			p.lex.i++
		}
		for !p.lex.atEnd() && !p.lex.at(',') && !p.lex.at(';') {
			p.lex.i++
		}
	}
	return slices.DeleteFunc(p.out, func(a Address) bool {
		return a == Address{Mailbox: MissingMailbox, Host: MissingDomain}
	})
}

// addressParser reads an address list the way Dovecot does, which decides
// what clients see of a broken one.
type addressParser struct {
	lex lexer
	buf []byte
	cur pending
	out []Address
	// left is how many more entries may be added; one that finds no room
	// sets full.
	left int
	full bool
}

// pending is the address being read.
type pending struct {
	name, route, mailbox, host optional
	invalid                    bool
}

// optional is a text that may be absent, which is not the same as empty.
type optional struct {
	text string
	ok   bool
}

func some(s string) optional { return optional{s, true} }

// envelopeAddresses reads an address field for an ENVELOPE: reading stops
// where the list is broken. At most limit entries are returned; full tells
// that there were more.
func envelopeAddresses(value []byte, limit int) (out []Address, full bool) {
	p := addressParser{lex: lexer{b: value}, left: limit}
	if p.lex.skipSpace() == more {
		p.list()
	}
	return p.out, p.full
}

// text is what was read into p.buf.
func (p *addressParser) text() optional { return some(cleanText(p.buf)) }

func (p *addressParser) add() {
	c := p.cur
	p.cur = pending{}
	if p.left <= 0 {
		p.full = true
		return
	}
	p.left--
	p.out = append(p.out, Address{
		Name:    collapse([]byte(c.name.text)),
		Route:   c.route.text,
		Mailbox: c.mailbox.text,
		Host:    c.host.text,
	})
}

// addMailbox adds the address being read, its gaps filled.
func (p *addressParser) addMailbox() {
	if !p.cur.mailbox.ok {
		p.cur.mailbox = some(MissingMailbox)
	}
	if p.cur.host.text == "" {
		p.cur.host = some(MissingDomain)
	}
	p.add()
}

// list reads address *("," address).
func (p *addressParser) list() {
	for {
		st := p.address()
		if st == ended || !p.lex.at(',') || p.full {
			return
		}
		p.lex.i++
		switch p.lex.skipSpace() {
		case broken:
			p.addMailbox()
			return
		case ended:
			return
		}
	}
}

func (p *addressParser) address() status {
	start := p.lex.i
	if st := p.group(); st != broken {
		return st
	}
	p.lex.i = start
	return p.mailbox()
}

// group reads display-name ":" [mailbox-list] ";". Only what has no colon is
// broken, that is, no group.
func (p *addressParser) group() status {
	var st status
	p.buf, st = p.lex.phrase(p.buf[:0])
	if st != more || !p.lex.at(':') {
		return broken
	}
	p.lex.i++
	st = p.lex.skipSpace()
	p.cur.mailbox = p.text()
	if len(p.buf) == 0 {
		// Without a name this would look like the end of a group.
		p.cur.mailbox = some(MissingMailbox)
	}
	p.add()

	if st == more && !p.lex.at(';') {
		for !p.full {
			p.mailbox()
			if !p.lex.at(',') {
				break
			}
			p.lex.i++
			if p.lex.skipSpace() != more {
				st = broken
				break
			}
		}
	}
	if st != broken {
		if p.lex.at(';') {
			p.lex.i++
			st = p.lex.skipSpace()
		} else {
			st = broken
		}
	}
	p.cur = pending{}
	p.add()
	if st == ended {
		return ended
	}
	return more
}

// mailbox reads name-addr or addr-spec and adds it, whatever it is.
func (p *addressParser) mailbox() status {
	start := p.lex.i
	st := p.nameAddr()
	if st == broken {
		p.lex.i = start
		st = p.addrSpec()
		c := &p.cur
		if c.invalid && !c.name.ok && c.mailbox.ok && !c.host.ok {
			c.name, c.mailbox = c.mailbox, optional{}
		}
	}
	p.addMailbox()
	return st
}

// nameAddr reads [phrase] "<" address ">".
func (p *addressParser) nameAddr() status {
	var st status
	p.buf, st = p.lex.phrase(p.buf[:0])
	if st != more || !p.lex.at('<') {
		return broken
	}
	if len(p.buf) > 0 {
		p.cur.name = p.text()
	}
	if p.angleAddr() == broken {
		p.cur.host = some(SyntaxError)
		p.cur.invalid = true
	}
	return p.lex.state()
}

func (p *addressParser) angleAddr() status {
	p.lex.i++
	if p.lex.skipSpace() != more {
		return broken
	}
	if p.lex.at('@') {
		if p.routeList() == more && p.lex.at(':') {
			p.lex.i++
		} else {
			p.cur.route = some(invalidRoute)
			if p.lex.atEnd() {
				return broken
			}
		}
		if p.lex.skipSpace() != more {
			return broken
		}
	}
	if !p.lex.at('>') {
		if p.localPart() != more {
			return broken
		}
		if p.lex.at('@') && p.host() != more {
			return broken
		}
	}
	if !p.lex.at('>') {
		return broken
	}
	p.lex.i++
	return p.lex.skipSpace()
}

// routeList reads "@" domain *("," "@" domain) (obs-domain-list, RFC 5322
// §4.4).
func (p *addressParser) routeList() status {
	p.buf = p.buf[:0]
	for p.lex.at('@') {
		if len(p.buf) > 0 {
			p.buf = append(p.buf, ',')
		}
		p.buf = append(p.buf, '@')
		var st status
		if p.buf, st = p.lex.domain(p.buf); st != more {
			return st
		}
		for p.lex.skipSpace() == more && p.lex.at(',') {
			p.lex.i++
		}
	}
	if p.lex.atEnd() {
		return ended
	}
	p.cur.route = p.text()
	return more
}

func (p *addressParser) localPart() status {
	var st status
	p.buf = p.buf[:0]
	if p.lex.at('"') {
		p.buf, st = p.lex.quoted(p.buf)
	} else {
		p.buf, st = p.lex.looseDotAtom(p.buf)
	}
	if st != broken {
		p.cur.mailbox = p.text()
	}
	return st
}

func (p *addressParser) host() status {
	var st status
	p.buf, st = p.lex.domain(p.buf[:0])
	if st != broken {
		p.cur.host = p.text()
	}
	return st
}

// addrSpec reads local-part "@" domain with, perhaps, the display name in a
// comment behind it.
func (p *addressParser) addrSpec() status {
	p.lex.comment = p.lex.comment[:0]
	isQuoted := p.lex.at('"')
	st := p.localPart()
	if st != more {
		p.cur.invalid = true
	}
	sawHost := false
	if st != ended && p.lex.at('@') {
		sawHost = true
		if hst := p.host(); hst != more {
			st = hst
		}
	}
	if len(p.lex.comment) > 0 {
		p.cur.name = some(cleanText(p.lex.comment))
		return st
	}
	if sawHost {
		return st
	}
	// A lone word is a mailbox; words are a display name without an address.
	n := len(p.buf) + 1
	p.buf, _ = p.lex.phrase(append(p.buf, ' '))
	if len(p.buf) != n {
		p.cur.mailbox = optional{}
		p.cur.name = p.text()
	} else if !isQuoted {
		p.cur.host = some("")
	}
	p.cur.invalid = true
	return broken
}
