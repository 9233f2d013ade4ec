package eventlog

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"holdfast/internal/failpoint"
	"holdfast/objstore"
)

// ErrLeased says that another process holds the lease.
var ErrLeased = errors.New("lease is held by another node")

const (
	maxLease    = 4 << 10
	leasePrefix = "lease/"
)

// Lease is the right to do a thing that only one node may do at a time. It
// fences by its epoch, not by the clock: whoever acts on a lease writes the
// epoch into what it appends, and folds refuse an older epoch than they have
// seen. The time only decides when another node may try to take over. Its
// methods may be called by any goroutine, Renew and Release by one at a time.
type Lease struct {
	log   *Log
	name  string
	epoch uint64
	etag  string

	mu    sync.Mutex // guards what follows
	term  time.Duration
	until time.Time
}

type leaseObject struct {
	Epoch  uint64    `json:"epoch"`
	Holder string    `json:"holder"`
	Until  time.Time `json:"until"`
	MAC    string    `json:"mac"`
}

// Acquire takes the lease of a name for a term, or returns [ErrLeased]. Its
// epoch is greater than that of any holder before. With exclusive the caller
// knows that no other process has the bucket, so that a former holder's term is
// not waited for.
func (l *Log) Acquire(ctx context.Context, name string, term time.Duration, exclusive bool) (*Lease, error) {
	if l.readOnly.Load() {
		return nil, l.refusal()
	}
	key := leasePrefix + name
	var now leaseObject
	opt := objstore.PutOptions{IfAbsent: true}
	raw, info, err := l.readAll(ctx, key, maxLease)
	switch {
	case errors.Is(err, objstore.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read lease %s: %w", name, err)
	default:
		// Builds before there was a MAC wrote leases that are taken over.
		if now, err = l.parseLease(ctx, name, raw); err != nil && (now.MAC != "" || now.Epoch == 0) {
			return nil, fmt.Errorf("acquire %s: %w", name, err)
		}
		if !exclusive && now.Holder != l.writer.String() && l.Now().Before(now.Until) {
			return nil, ErrLeased
		}
		opt = objstore.PutOptions{IfMatch: info.ETag}
	}
	le := &Lease{log: l, name: name, term: term, epoch: now.Epoch + 1}
	if err := le.put(ctx, opt); err != nil {
		return nil, err
	}
	return le, nil
}

// Epoch returns the number of this holding.
func (le *Lease) Epoch() uint64 { return le.epoch }

// Valid reports whether the lease has not run out, with a margin for clocks.
func (le *Lease) Valid() bool {
	le.mu.Lock()
	defer le.mu.Unlock()
	return le.log.Now().Add(le.term / 5).Before(le.until)
}

// Renew extends the lease by its term. [ErrLeased] when it was lost: the holder
// stops what it does under it. Any other error leaves it as it was.
func (le *Lease) Renew(ctx context.Context) error {
	err := le.put(ctx, objstore.PutOptions{IfMatch: le.etag})
	if !errors.Is(err, ErrLeased) {
		return err
	}
	// An earlier renewal whose answer was lost may have landed since: then the
	// object is still ours, under another ETag.
	now, info, err := le.read(ctx)
	if errors.Is(err, ErrDamaged) || errors.Is(err, objstore.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrLeased, err) // whoever wants it has to acquire it again
	}
	if err != nil {
		return err
	}
	if now.Epoch != le.epoch || now.Holder != le.log.writer.String() {
		return ErrLeased
	}
	return le.put(ctx, objstore.PutOptions{IfMatch: info.ETag})
}

// Release lets others take the lease at once.
func (le *Lease) Release(ctx context.Context) error {
	le.mu.Lock()
	le.term, le.until = 0, time.Time{}
	le.mu.Unlock()
	return le.Renew(ctx)
}

func (le *Lease) read(ctx context.Context) (now leaseObject, info objstore.Info, err error) {
	raw, info, err := le.log.readAll(ctx, leasePrefix+le.name, maxLease)
	if err != nil {
		return now, info, fmt.Errorf("read lease %s: %w", le.name, err)
	}
	now, err = le.log.parseLease(ctx, le.name, raw)
	return now, info, err
}

// parseLease reads what encodeLease wrote. Only those very bytes are a lease.
func (l *Log) parseLease(ctx context.Context, name string, raw []byte) (o leaseObject, err error) {
	if err := json.Unmarshal(raw, &o); err != nil {
		return o, fmt.Errorf("lease %s: %w", name, ErrDamaged)
	}
	want, err := l.encodeLease(ctx, name, o)
	if err != nil {
		return o, err
	}
	if !hmac.Equal(raw, want) {
		return o, fmt.Errorf("lease %s is not one that a node of this installation wrote: %w", name, ErrDamaged)
	}
	return o, nil
}

// encodeLease completes a lease with its MAC and encodes it.
func (l *Log) encodeLease(ctx context.Context, name string, o leaseObject) ([]byte, error) {
	key, err := l.opt.Keys.LocalKey(ctx, "lease")
	if err != nil {
		return nil, err
	}
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "%v\n%s\n%d\n%s\n%s", l.id, name, o.Epoch, o.Holder, o.Until.Format(time.RFC3339Nano))
	o.MAC = hex.EncodeToString(m.Sum(nil))
	return json.Marshal(o)
}

func (le *Lease) put(ctx context.Context, opt objstore.PutOptions) error {
	le.mu.Lock()
	until := le.log.Now().Add(le.term).UTC()
	le.mu.Unlock()
	raw, err := le.log.encodeLease(ctx, le.name, leaseObject{Epoch: le.epoch, Holder: le.log.writer.String(), Until: until})
	if err != nil {
		return err
	}
	key := leasePrefix + le.name
	ctx, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	failpoint.Hit(failpoint.LeasePut)
	info, err := le.log.bucket.Put(ctx, key, bytes.NewReader(raw), int64(len(raw)), opt)
	if errors.Is(err, objstore.ErrAmbiguous) {
		info, err = le.settle(ctx, key, raw, err)
	}
	if errors.Is(err, objstore.ErrExists) || errors.Is(err, objstore.ErrChanged) {
		return ErrLeased
	}
	if err != nil {
		return fmt.Errorf("write lease %s: %w", le.name, err)
	}
	failpoint.Hit(failpoint.LeaseDurable)
	le.etag = info.ETag
	le.mu.Lock()
	le.until = until
	le.mu.Unlock()
	return nil
}

// settle finds out whether a lease whose answer was lost is ours. As long as
// neither it nor another's is there, the put's own error stands.
func (le *Lease) settle(ctx context.Context, key string, raw []byte, lost error) (objstore.Info, error) {
	got, info, err := le.log.readAll(ctx, key, maxLease)
	switch {
	case errors.Is(err, objstore.ErrNotExist):
		return info, lost
	case err != nil:
		return info, fmt.Errorf("%w: %w", lost, err)
	case bytes.Equal(got, raw):
		return info, nil
	}
	now, err := le.log.parseLease(ctx, le.name, got)
	if err == nil && now.Epoch <= le.epoch && now.Holder == le.log.writer.String() || err == nil && now.Epoch < le.epoch {
		return info, lost
	}
	return info, errors.Join(err, objstore.ErrChanged)
}
