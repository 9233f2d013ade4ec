package imapgw

import (
	"io"
	"net"
	"time"

	"github.com/emersion/go-imap/v2"
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

// Append implements APPEND (RFC 9051 §6.3.12). The literal is read to its end
// whatever becomes of it, or else the connection ends: what is left of it would
// be taken for commands.
func (s *session) Append(mailbox string, r imap.LiteralReader, options *imap.AppendOptions) (*imap.AppendData, error) {
	if r.Size() > s.appendLimit()+largeExcess {
		// To read on would take hours, and there is no other way to refuse a
		// literal that is on its way.
		_ = s.ic.Bye("Message is much too big") // the connection ends in any case
		return nil, no(imap.ResponseCodeTooBig, "Message is much too big")
	}
	paced := &pacedReader{r: r, c: s.ic.NetConn()}
	data, err := s.append(mailbox, r.Size(), paced, options)
	if _, cut := io.Copy(io.Discard, paced); cut != nil {
		s.nc.abort()
	}
	return data, err
}

func (s *session) append(mailbox string, size int64, r io.Reader, options *imap.AppendOptions) (*imap.AppendData, error) {
	switch {
	case size > s.appendLimit():
		return nil, no(imap.ResponseCodeTooBig, "Message is too big") // RFC 7889 §4
	case size == 0:
		return nil, no("", "A message of no bytes is none")
	}
	flags, err := flagStrings(options.Flags, nil)
	if err != nil {
		return nil, err
	}
	validity, uid, err := s.user.Append(s.ctx, mailboxName(mailbox), size, r, flags, options.Time)
	if err != nil {
		return nil, answer(err, true)
	}
	return &imap.AppendData{UIDValidity: validity, UID: imap.UID(uid)}, nil
}

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
