package intake

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"holdfast/event"
	"holdfast/message"
)

// submitted checks the header of a submitted message and adds what it lacks
// (RFC 6409 §8). The rest streams through untouched.
func (t *Tx) submitted(id event.ID, body io.Reader, now time.Time) (io.Reader, error) {
	first, err := readHeader(body)
	if err != nil {
		return nil, fmt.Errorf("message %v: %w", id, err)
	}
	header, _ := message.SplitHeader(first)
	facts := message.InspectHeader(header)
	for _, a := range append(facts.FromAddresses, facts.SenderAddresses...) {
		if a.Host == "" {
			continue // the mark of a group's begin or end
		}
		if !t.env.Subject.Owns(a.Mailbox + "@" + a.Host) {
			return nil, ErrSenderNotYours
		}
	}
	missing := message.AddMissing(header, now.UTC(), id.String()+"@"+t.svc.cfg.Hostname)
	return io.MultiReader(bytes.NewReader(missing), bytes.NewReader(first), body), nil
}

// readHeader reads until the header is surely whole: up to an empty line, the
// end, or the limit.
func readHeader(body io.Reader) ([]byte, error) {
	var buf bytes.Buffer
	chunk := make([]byte, 4<<10)
	for buf.Len() < maxHeader {
		n, err := body.Read(chunk)
		buf.Write(chunk[:n])
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if bytes.Contains(buf.Bytes(), []byte("\n\r\n")) || bytes.Contains(buf.Bytes(), []byte("\n\n")) {
			break
		}
	}
	return buf.Bytes(), nil
}
