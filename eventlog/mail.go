package eventlog

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"

	"github.com/fxamacker/cbor/v2"

	"holdfast/event"
	"holdfast/message"
)

// MailWriter takes a message's bytes once, as they stream by: it measures,
// hashes, indexes and seals them. It is used by one goroutine. Either Finish or
// Discard must be called.
type MailWriter struct {
	body  *BodyWriter
	sum   hash.Hash
	index *message.Indexer
	trace int64
	size  int64
}

// Mail is what a MailWriter made of a message.
type Mail struct {
	Body   event.Body
	SHA256 [32]byte // of the message's own bytes
	Size   int64    // of the message's own bytes
	Shown  int64    // with the trace above them
	// Index is of the message as shown, decoded and as CBOR.
	Index *message.Index
	Raw   cbor.RawMessage
}

// NewMail begins the message of an event. trace is the Received line under
// which the message is shown; it goes into the index, not into the body.
func (l *Log) NewMail(ctx context.Context, id event.ID, t event.Tenant, expiry event.Day, trace []byte) (*MailWriter, error) {
	body, err := l.NewBody(ctx, id, t, expiry)
	if err != nil {
		return nil, err
	}
	w := &MailWriter{body: body, sum: sha256.New(), index: message.NewIndexer(), trace: int64(len(trace))}
	if _, err := w.index.Write(trace); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	return w, nil
}

// Write implements io.Writer. It blocks as [BodyWriter.Write] does.
func (w *MailWriter) Write(p []byte) (int, error) {
	w.sum.Write(p)
	w.size += int64(len(p))
	if _, err := w.index.Write(p); err != nil {
		return 0, fmt.Errorf("index: %w", err)
	}
	return w.body.Write(p)
}

// Size returns the bytes written so far.
func (w *MailWriter) Size() int64 { return w.size }

// Finish ends the message.
func (w *MailWriter) Finish() (Mail, error) {
	body, err := w.body.Finish()
	if err != nil {
		return Mail{}, err
	}
	ix := w.index.Finish()
	return Mail{
		Body: body, SHA256: [32]byte(w.sum.Sum(nil)), Size: w.size, Shown: w.trace + w.size,
		Index: ix, Raw: event.Marshal(ix),
	}, nil
}

// Discard gives up the message. It may be called after Finish, and again.
func (w *MailWriter) Discard() { w.body.Discard() }
