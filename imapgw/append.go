package imapgw

import (
	"io"
	"net"
	"time"
)

const (
	// literalPause is how long a client may pause within a literal.
	literalPause = 2 * time.Minute
	// pacedBytes is how much has to come in that time.
	pacedBytes = 256 << 10
	// largeExcess is how far beyond the limit a message may be and still be
	// read to its end for the sake of a proper answer.
	largeExcess = 64 << 20
)

// pacedReader reads a literal and lets it take as long as it keeps coming. The
// library allows five minutes for the whole of it, in which a slow line does
// not carry a large message.
type pacedReader struct {
	r    io.Reader
	c    net.Conn
	left int // until the deadline moves
}

func (p *pacedReader) Read(b []byte) (int, error) {
	if p.left <= 0 {
		if err := p.c.SetReadDeadline(time.Now().Add(literalPause)); err != nil {
			return 0, err
		}
		p.left = pacedBytes
	}
	n, err := p.r.Read(b)
	p.left -= n
	return n, err
}
