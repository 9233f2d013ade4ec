// Package fault wraps a bucket and misbehaves on demand, as object stores do.
//
// # Fault model
//
// What can go wrong:
//
//   - FailBefore: the call fails and has no effect. Definite.
//   - FailAfter: the call takes effect, yet fails with an error of a server that
//     broke down in the middle. A Put's error wraps objstore.ErrAmbiguous.
//   - LostAnswer: the call takes effect, then the connection is lost. For a Put
//     the same as FailAfter with another cause; the two have names of their own so
//     that a test says what it means.
//   - LateLanding: a Put or Delete fails at once as ambiguous and is carried out
//     later, after Rule.Delay, or at Release if that is zero. Its conditions are
//     judged then, against what the key holds then: it may overtake or be overtaken
//     by later calls, and it may come to nothing. Its bytes are those given.
//   - Delay: the call is held up for Rule.Delay, then carried out; ended earlier
//     by its context it has no effect, and a Put's error is not ambiguous.
//   - Hang: the call never reaches the store and ends with its context. A Put's
//     error is ambiguous, since its caller cannot know that.
//   - TornRead: a Get yields the first Rule.Bytes bytes of what it should, and at
//     least one fewer than all, then io.ErrUnexpectedEOF.
//   - StaleList: a List does not show the last Rule.Keys keys it should.
//   - Full: a Put fails definitely with ErrFull. Deletes and reads go on.
//   - Unconditional: a Put is carried out without its condition, as a store does
//     that ignores what it does not know.
//
// What cannot go wrong here: bytes are never altered, a value that a Get can read
// stays until it is overwritten or deleted, a Put without error took effect,
// and Info is always true.
//
// Faults strike by rules (Inject), which is exact, or by chance from a seed
// (Chance), which repeats exactly only if the calls come in the same order.
// Rules come first. Without either the wrapper is transparent.
//
// Everything here works inside a testing/synctest bubble if the wrapped bucket
// does. Only LateLanding with a Delay starts goroutines; Close waits for them.
package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"holdfast/objstore"
)

var (
	// ErrInjected is wrapped by every error that this package makes up.
	ErrInjected = errors.New("injected fault")
	// ErrFull is the error of a Put to a full store. It wraps ErrInjected.
	ErrFull = fmt.Errorf("%w: no space left in the store", ErrInjected)
)

// Op says which method a rule is for.
type Op int

// The methods of a bucket. Any, the zero value, is every one of them.
const (
	Any Op = iota
	Put
	Get
	List
	Delete
	numOps
)

// Kind is what goes wrong; see the package's fault model.
type Kind int

// The kinds of faults. Zero is invalid. A rule whose kind does not apply to an
// operation, such as TornRead to a Put, does not match it.
const (
	FailBefore Kind = iota + 1
	FailAfter
	LostAnswer
	LateLanding
	Delay
	Hang
	TornRead
	StaleList
	Full
	Unconditional
)

// applies reports whether a kind of fault can strike an operation.
func (k Kind) applies(op Op) bool {
	switch k {
	case FailBefore, Delay, Hang:
		return true
	case FailAfter, LostAnswer, LateLanding:
		return op == Put || op == Delete
	case TornRead:
		return op == Get
	case StaleList:
		return op == List
	case Full, Unconditional:
		return op == Put
	}
	return false
}

// Rule says which calls go wrong and how.
type Rule struct {
	Op        Op     // Any if zero
	KeyPrefix string // of the key, or of the prefix given to List; all if empty
	Nth       int    // the first matching call to strike, from 1; 0 is 1
	Times     int    // how many calls are struck from there on; 0 is one, negative all
	Kind      Kind   // required

	Delay time.Duration // of Delay and LateLanding
	Bytes int64         // of TornRead
	Keys  int           // of StaleList; 0 is one
	Err   error         // wrapped by the error besides ErrInjected, if not nil
}

// Handle is an injected rule.
type Handle struct {
	b    *Bucket
	rule Rule
	seen int // matching calls so far; guarded by b.mu
	off  bool
}

// Remove ends the rule. It may be called again.
func (h *Handle) Remove() {
	h.b.mu.Lock()
	defer h.b.mu.Unlock()
	h.off = true
}

// Struck returns how many calls the rule has made go wrong.
func (h *Handle) Struck() int {
	h.b.mu.Lock()
	defer h.b.mu.Unlock()
	struck := max(h.seen-max(h.rule.Nth, 1)+1, 0)
	if h.rule.Times >= 0 {
		struck = min(struck, max(h.rule.Times, 1))
	}
	return struck
}

// strike counts a call and reports whether it goes wrong.
func (h *Handle) strike(op Op, key string) bool {
	r := h.rule
	if h.off || r.Op != Any && r.Op != op || !r.Kind.applies(op) || !strings.HasPrefix(key, r.KeyPrefix) {
		return false
	}
	h.seen++
	first := max(r.Nth, 1)
	return h.seen >= first && (r.Times < 0 || h.seen < first+max(r.Times, 1))
}

// Bucket implements objstore.Bucket and objstore.Clock. Use Wrap.
type Bucket struct {
	next   objstore.Bucket
	ctx    context.Context // ends the goroutines of late landings
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	rules   []*Handle
	chance  *chance
	calls   [numOps]int
	pending []*landing // late landings that wait for Release
}

// Wrap returns a transparent wrapper of next. Close it before next.
func Wrap(next objstore.Bucket) *Bucket {
	ctx, cancel := context.WithCancel(context.Background())
	return &Bucket{next: next, ctx: ctx, cancel: cancel}
}

// Close drops late landings that are still to come and waits for those under
// way. It does not close the wrapped bucket, and may be called again.
func (b *Bucket) Close() error {
	b.cancel()
	b.wg.Wait()
	return nil
}

// Inject adds a rule. Of several rules that match a call the first injected
// strikes; each of them counts the call. A rule without a valid kind panics.
func (b *Bucket) Inject(r Rule) *Handle {
	if r.Kind < FailBefore || r.Kind > Unconditional {
		panic("internal error: fault rule without a kind")
	}
	h := &Handle{b: b, rule: r}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rules = append(b.rules, h)
	return h
}

// Clear ends all rules and chances; late landings stay to come.
func (b *Bucket) Clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rules, b.chance = nil, nil
}

// Calls returns how many calls of the operation, or of all for Any, have come in,
// struck or not.
func (b *Bucket) Calls(op Op) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls[op]
}

// Rates are probabilities between 0 and 1 of each kind of fault per call that it
// applies to. If their sum for an operation exceeds 1 the later kinds get less.
type Rates map[Kind]float64

// chance strikes at random.
type chance struct {
	rng   *rand.Rand
	rates Rates
	max   time.Duration
}

// Chance lets faults strike at random, chosen by the seed. Delays, of Delay and
// LateLanding, are spread evenly up to maxDelay; late landings with a maxDelay of
// zero wait for Release. It replaces an earlier Chance.
func (b *Bucket) Chance(seed uint64, rates Rates, maxDelay time.Duration) {
	copied := make(Rates, len(rates))
	for k, p := range rates {
		copied[k] = p
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.chance = &chance{rng: rand.New(rand.NewPCG(seed, 0x686f6c6466617374)), rates: copied, max: maxDelay}
}

// pick draws the fault of one call, if any. It draws the same number of random
// numbers for every call, so that one call's fate does not shift the next one's.
func (c *chance) pick(op Op) (Rule, bool) {
	p, d, n := c.rng.Float64(), c.rng.Float64(), c.rng.Int64N(4096)
	for k := FailBefore; k <= Unconditional; k++ {
		if !k.applies(op) {
			continue
		}
		if p < c.rates[k] {
			return Rule{Op: op, Kind: k, Delay: time.Duration(d * float64(c.max)), Bytes: n, Keys: int(n%4) + 1}, true
		}
		p -= c.rates[k]
	}
	return Rule{}, false
}

// fate counts a call and decides what goes wrong with it; a zero Kind is nothing.
func (b *Bucket) fate(op Op, key string) Rule {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls[Any]++
	b.calls[op]++
	var struck Rule
	for _, h := range b.rules {
		if h.strike(op, key) && struck.Kind == 0 {
			struck = h.rule
		}
	}
	if struck.Kind == 0 && b.chance != nil {
		struck, _ = b.chance.pick(op)
	}
	return struck
}

// fault is the error of a struck call.
func (r Rule) fault(what string) error {
	if r.Err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInjected, what, r.Err)
	}
	return fmt.Errorf("%w: %s", ErrInjected, what)
}

// ambiguous is the error of a struck Put whose outcome its caller cannot know.
func (r Rule) ambiguous(what string) error {
	return fmt.Errorf("%w: %w", objstore.ErrAmbiguous, r.fault(what))
}

// hold waits out a Delay, or a Hang, which ends with ctx only.
func (r Rule) hold(ctx context.Context) error {
	switch r.Kind {
	case Hang:
		<-ctx.Done()
		return fmt.Errorf("%w: hung: %w", ErrInjected, ctx.Err())
	case Delay:
		timer := time.NewTimer(r.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: delayed: %w", ErrInjected, ctx.Err())
		}
	case FailBefore:
		return r.fault("failed before it took effect")
	}
	return nil
}

// Get implements objstore.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, objstore.Info, error) {
	r := b.fate(Get, key)
	if err := r.hold(ctx); err != nil {
		return nil, objstore.Info{}, err
	}
	body, info, err := b.next.Get(ctx, key, off, n)
	if err == nil && r.Kind == TornRead {
		whole := max(info.Size-off, 0)
		if n >= 0 {
			whole = min(whole, n)
		}
		body = &tornReader{ReadCloser: body, left: max(min(r.Bytes, whole-1), 0)}
	}
	return body, info, err
}

// tornReader breaks off after left bytes.
type tornReader struct {
	io.ReadCloser
	left int64
}

func (t *tornReader) Read(p []byte) (int, error) {
	if t.left == 0 {
		return 0, fmt.Errorf("%w: %w", ErrInjected, io.ErrUnexpectedEOF)
	}
	n, err := t.ReadCloser.Read(p[:min(int64(len(p)), t.left)])
	t.left -= int64(n)
	return n, err
}

// List implements objstore.Bucket.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		r := b.fate(List, prefix)
		if err := r.hold(ctx); err != nil {
			yield(objstore.Info{}, err)
			return
		}
		hide := 0
		if r.Kind == StaleList {
			hide = max(r.Keys, 1)
		}
		// The last keys are not known until the end, so as many are held back.
		var held []objstore.Info
		for info, err := range b.next.List(ctx, prefix, after) {
			if err != nil {
				yield(objstore.Info{}, err)
				return
			}
			held = append(held, info)
			if len(held) <= hide {
				continue
			}
			if !yield(held[0], nil) {
				return
			}
			held = held[1:]
		}
	}
}

// Now implements objstore.Clock if the wrapped bucket does. It never goes wrong.
func (b *Bucket) Now(ctx context.Context) (time.Time, error) {
	if c, ok := b.next.(objstore.Clock); ok {
		return c.Now(ctx)
	}
	return time.Now(), ctx.Err()
}

// InMemory says whether the wrapped bucket holds its values in memory.
func (b *Bucket) InMemory() bool {
	m, ok := b.next.(interface{ InMemory() bool })
	return ok && m.InMemory()
}
