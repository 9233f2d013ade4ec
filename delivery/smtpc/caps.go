package smtpc

import (
	"strconv"
	"strings"
)

// caps is what a server offers in its answer to EHLO.
type caps struct {
	startTLS, pipelining, eightBit, utf8, dsn bool

	size    bool
	maxSize int64 // 0: no limit is announced (RFC 1870 §4)
}

func parseCaps(r Reply) caps {
	var c caps
	if len(r.Text) == 0 {
		return c
	}
	for _, line := range r.Text[1:] { // The first line is the greeting.
		word, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch strings.ToUpper(word) {
		case "STARTTLS":
			c.startTLS = true
		case "PIPELINING":
			c.pipelining = true
		case "8BITMIME":
			c.eightBit = true
		case "SMTPUTF8":
			c.utf8 = true
		case "DSN":
			c.dsn = true
		case "SIZE":
			c.size = true
			if n, err := strconv.ParseInt(strings.TrimSpace(arg), 10, 64); err == nil && n > 0 {
				c.maxSize = n
			}
		}
	}
	return c
}

// Extensions returns the extensions that this package knows and the server
// offers, in a fixed order.
func (c *Conn) Extensions() []string {
	var out []string
	for _, e := range []struct {
		name string
		have bool
	}{
		{"PIPELINING", c.caps.pipelining}, {"SIZE", c.caps.size}, {"8BITMIME", c.caps.eightBit},
		{"SMTPUTF8", c.caps.utf8}, {"DSN", c.caps.dsn}, {"STARTTLS", c.caps.startTLS},
	} {
		if e.have {
			out = append(out, e.name)
		}
	}
	return out
}
