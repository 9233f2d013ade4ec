package eventlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"holdfast/internal/failpoint"
	"holdfast/internal/sabotage"
	"holdfast/internal/turn"
	"holdfast/objstore"
)

// oneTable is room for the table of a stream of one chunk.
const oneTable = 64

// bodyOut gathers sealed bytes into an inline body or parts.
type bodyOut struct {
	w     *BodyWriter
	small []byte
	place bool   // small has a place from the budget
	big   []byte // from the budget; nil until the body outgrows small
	// putting is the part before the one in big, as long as it is under way.
	putting *partPut
}

// Write implements io.Writer for the stream sealer.
func (o *bodyOut) Write(p []byte) (int, error) {
	n := len(p)
	if o.big == nil {
		if len(o.small)+len(p) <= o.w.log.bodies.inline {
			return n, o.addSmall(p)
		}
		buf, err := o.w.log.bodies.take(o.w.ctx)
		if err != nil {
			return 0, err
		}
		o.big = append(buf, o.small...)
		o.releaseSmall()
	}
	for len(p) > 0 {
		k := min(len(p), o.w.log.bodies.part-len(o.big))
		o.big = append(o.big, p[:k]...)
		p = p[k:]
		if len(o.big) == o.w.log.bodies.part {
			if err := o.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (o *bodyOut) addSmall(p []byte) error {
	if !o.place && len(o.small)+len(p) > tinyBody {
		if err := o.w.log.bodies.takeSmall(o.w.ctx); err != nil {
			return err
		}
		o.place = true
	}
	if o.small == nil {
		// Most bodies are one chunk, which comes first, and its table.
		o.small = make([]byte, 0, len(p)+oneTable)
	}
	o.small = append(o.small, p...)
	return nil
}

func (o *bodyOut) finish() error {
	if o.big == nil {
		o.w.body.inline = o.small
		return nil
	}
	if len(o.big) == 0 {
		return o.settle()
	}
	last, err := o.put(o.w.ctx, o.count(), o.big)
	if err := errors.Join(err, o.settle()); err != nil {
		return err
	}
	o.w.body.blobs = append(o.w.body.blobs, last)
	return nil
}

// count is how many parts there are before the one that gathers.
func (o *bodyOut) count() int {
	n := len(o.w.body.blobs)
	if o.putting != nil {
		n++
	}
	return n
}

// flush puts the gathered part, while the next one gathers if there is a buffer
// to spare for it: whoever holds one does not wait for another. No more than one
// part of a body is under way.
func (o *bodyOut) flush() error {
	if err := o.settle(); err != nil {
		return err
	}
	next, ok := o.w.log.bodies.tryTake()
	if !ok {
		blob, err := o.put(o.w.ctx, o.count(), o.big)
		if err != nil {
			return err
		}
		o.w.body.blobs = append(o.w.body.blobs, blob)
		o.big = o.big[:0]
		return nil
	}
	ctx, cancel := context.WithCancel(turn.Named(o.w.ctx, "part"))
	p := &partPut{buf: o.big, cancel: cancel, done: make(chan struct{})}
	n := o.count()
	go func() {
		defer close(p.done)
		p.blob, p.err = o.put(ctx, n, p.buf)
	}()
	o.putting, o.big = p, next
	return nil
}

// partPut is a part on its way into the bucket.
type partPut struct {
	buf    []byte
	cancel context.CancelFunc
	done   chan struct{}
	blob   blobEntry // and err: valid once done is closed
	err    error
}

// settle waits for the part that is under way, if there is one.
func (o *bodyOut) settle() error {
	p := o.putting
	if p == nil {
		return nil
	}
	<-p.done
	p.cancel()
	o.putting = nil
	o.w.log.bodies.give(p.buf)
	if p.err == nil {
		o.w.body.blobs = append(o.w.body.blobs, p.blob)
	}
	return p.err
}

// put puts part n. Its key is fresh and ours alone, so that a lost answer is
// settled by putting the same bytes again.
func (o *bodyOut) put(ctx context.Context, n int, part []byte) (blobEntry, error) {
	b := o.w.body
	if n == maxBlobs {
		return blobEntry{}, ErrBodyTooLarge
	}
	key := blobKey(b.page.Day, b.id, n)
	// Who waits for a buffer has patience, since others are being served. A put
	// that takes longer than an Append may is a store that does not answer.
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	failpoint.Hit(failpoint.BlobPut)
	if sabotage.On(sabotage.LateBlob) {
		go o.w.log.putSame(context.WithoutCancel(ctx), key, bytes.Clone(part), objstore.PutOptions{})
	} else if err := o.w.log.putSame(ctx, key, part, objstore.PutOptions{}); err != nil {
		return blobEntry{}, fmt.Errorf("put body part: %w", noAnswer(ctx, err))
	}
	failpoint.Hit(failpoint.BlobDurable)
	return blobEntry{Length: int64(len(part)), Digest: sha256.Sum256(part)}, nil
}

// putSame puts the same bytes until their outcome is known, a few times. In the
// end an ambiguous error means that the value is not used.
func (l *Log) putSame(ctx context.Context, key string, b []byte, opt objstore.PutOptions) error {
	const tries = 3
	for try := 1; ; try++ {
		one, cancel := context.WithTimeout(ctx, putTimeout)
		_, err := l.bucket.Put(one, key, bytes.NewReader(b), int64(len(b)), opt)
		cancel()
		if err == nil || try == tries || ctx.Err() != nil || !errors.Is(err, objstore.ErrAmbiguous) {
			return err
		}
		pause(ctx, minPause<<try)
	}
}

func (o *bodyOut) release() {
	if o.putting != nil {
		o.putting.cancel()
		o.settle() // the body is given up, or whole
	}
	if o.big != nil {
		o.w.log.bodies.give(o.big)
		o.big = nil
	}
	o.releaseSmall()
}

func (o *bodyOut) releaseSmall() {
	if o.place {
		o.w.log.bodies.giveSmall()
		o.place = false
	}
	o.small = nil
}
