package eventlog

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sync/semaphore"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/internal/sabotage"
	"holdfast/objstore"
)

const (
	// maxVerifiers is how many segments are verified at a time, at most.
	maxVerifiers = 8
	// maxGap is how many missing segments of one gap are named.
	maxGap = 100
	// maxOpen is how many references are kept until all partitions are read.
	maxOpen = 10_000
	// readTries is how often a read that failed is tried in all.
	readTries = 4
)

// What a [Finding] can say is wrong.
const (
	DamagedHeader    = "header"      // of a segment: form, certificate, signature, or its place
	DamagedChain     = "chain"       // a segment does not follow the one before it
	DamagedLength    = "length"      // an object is longer or shorter than it should be
	DamagedState     = "state"       // of an event: digest, seal or content
	DamagedMeta      = "metadata"    // likewise
	DamagedBody      = "body"        // likewise, with every part of a large one
	DamagedKeyPage   = "key page"    // is missing, or not the one that was stored
	DamagedTenantKey = "tenant key"  // is missing, or does not open
	DamagedReference = "reference"   // an event refers to one that is not in the log
	DamagedTenant    = "tenant"      // an event stands in a partition that is not its tenant's
	MissingSegment   = "missing"     // there are segments after it
	UnknownObject    = "unknown"     // an object where only segments should be
	UnknownKind      = "newer event" // of a kind that this version does not know

	DamagedFormat     = "format"     // the object that says what the bucket is
	DamagedLease      = "lease"      // an object that says who may do what
	DamagedBase       = "base"       // the list of Bases, or a piece of one
	DamagedCheckpoint = "checkpoint" // its form, its signer, or what it says of the segments up to it
	MissingCheckpoint = "missing checkpoint"
	RolledBack        = "rolled back" // a checkpoint speaks of segments that are there no more
	DamagedFloor      = "floor"       // an object that says what is in packs and where the log begins
	DamagedPack       = "pack"        // its index, or its form
	MissingPack       = "missing pack"
	Forked            = "forked" // a checkpoint speaks of another segment than the one that is there
)

// Finding is one damage. It holds nothing of anybody's mail.
type Finding struct {
	Partition event.Partition
	Seq       event.Seq // of the segment; 0 where it is about none
	Index     int       // of the event, -1 where it is about none
	Event     event.ID
	Key       string // of the object that is damaged or missing
	What      string
	Err       error // the particulars; wraps ErrDamaged where it is damage
}

// String tells the finding in one line.
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", f.Key, f.What)
	if f.Seq > 0 {
		fmt.Fprintf(&b, ", at %02x/%d", uint8(f.Partition), uint64(f.Seq))
	}
	if f.Index >= 0 {
		fmt.Fprintf(&b, "/%d, event %v", f.Index, f.Event)
	}
	if f.Err != nil {
		fmt.Fprintf(&b, ": %v", f.Err)
	}
	return b.String()
}

// Summary is what a verification has seen so far.
type Summary struct {
	Segments, Events uint64
	Bodies, Blobs    uint64 // bodies opened and read to their end; parts among them
	Bytes            uint64 // read
	Expired          uint64 // events whose mail has expired: only digests were compared
	Ended            uint64 // events of tenants that have ended: only digests were compared
	Pages, Tenants   uint64 // key objects
	Checkpoints      uint64 // in the bucket, signed and in their places
	// BeforeStart are checkpoints about segments before the beginning of the log:
	// they say nothing about it any more. Unresolved are references to events that
	// are not in the log, and may have stood before its beginning.
	BeforeStart, Unresolved uint64
	// OrphanBlobs and OrphanPages belong to no event: a crash or a refused
	// message left them. They are no damage and go with their day. A few may be
	// missed among very many.
	OrphanBlobs, OrphanPages uint64
	Findings                 uint64
}

// VerifyOptions say whom to tell.
type VerifyOptions struct {
	Report   func(Finding) // required; called by one goroutine at a time
	Progress func(Summary) // called after each segment; may be nil
	// Since are checkpoints of this log that were kept elsewhere. Those in the
	// bucket and those that are remembered ([Options.Memory]) are looked at in any
	// case.
	Since []*Checkpoint
}

// Verify reads the whole log as it is in the bucket, caches aside, and reports
// all that is not as it was written: see [Finding]. Segments that were removed
// from the end of a partition, with the checkpoints about them, show only when
// this Log has seen them or a checkpoint of them was kept elsewhere. An error says that the verification did not
// come to its end, never that it found something. It may run while the log is in
// use, and takes some tens of megabytes.
func (l *Log) Verify(ctx context.Context, report func(Finding)) (Summary, error) {
	return l.VerifyWith(ctx, VerifyOptions{Report: report})
}

// VerifyWith is Verify with options.
func (l *Log) VerifyWith(ctx context.Context, opt VerifyOptions) (Summary, error) {
	workers := min(max(runtime.GOMAXPROCS(0), 2), maxVerifiers)
	v := &verifier{
		log: l, opt: opt, ahead: 2 * workers, work: semaphore.NewWeighted(int64(workers)),
		ids: newSieve(), blobs: newSieve(), pageIDs: newSieve(), badTenants: map[event.Tenant]bool{}, badPacks: map[string]bool{},
		pages:   newMemo[event.Page](maxPagesKept, one[*checkedPage]),
		tenants: newMemo[event.Tenant](maxTenantsKept, one[*crypto.TenantKeys]),
		headers: newMemo[slot](headerBytes, func(h *parsed) int64 { return 2 * h.front }),
		chunks:  newMemo[chunk](chunkBytes, func(b []byte) int64 { return int64(len(b)) }),
	}
	v.recall()
	if err := errors.Join(v.small(ctx), v.bases(ctx)); err != nil {
		return v.sum, fmt.Errorf("verify what the bucket is: %w", err)
	}
	for i := range l.partitions {
		// Other nodes may have put more. What cannot be read there shows below.
		if err := l.Refresh(ctx, event.Partition(i)); err != nil && !damaging(err) {
			return v.sum, fmt.Errorf("verify partition %d: %w", i, err)
		}
		if err := v.partition(ctx, event.Partition(i)); err != nil {
			return v.sum, fmt.Errorf("verify partition %d: %w", i, err)
		}
	}
	for _, o := range v.open {
		if !v.ids.has(o.id[:]) {
			v.unresolved(o.f)
		}
	}
	if err := v.floors(ctx); err != nil {
		return v.sum, fmt.Errorf("verify floors: %w", err)
	}
	for _, under := range []string{"log", "checkpoint", "pack"} {
		if err := v.strangers(ctx, under); err != nil {
			return v.sum, fmt.Errorf("verify names: %w", err)
		}
	}
	if err := v.orphans(ctx); err != nil {
		return v.sum, fmt.Errorf("look for orphans: %w", err)
	}
	return v.sum, nil
}

// verifier is one run of Verify. Only the goroutine that called Verify uses sum
// and the sieves; workers hand it their results in order.
type verifier struct {
	log     *Log
	opt     VerifyOptions
	ahead   int
	work    *semaphore.Weighted
	sum     Summary
	ids     *sieve // of events that others refer to
	open    []openReference
	blobs   *sieve // names of blobs that belong to an event
	pageIDs *sieve
	pages   *memo[event.Page, *checkedPage]
	headers *memo[slot, *parsed]
	tenants *memo[event.Tenant, *crypto.TenantKeys]
	chunks  *memo[chunk, []byte]
	began   bool                // the log of a partition has a beginning after its first segment
	days    map[event.Day]int64 // of the pack that is read now
	daysOK  bool
	end     string  // the pack that ends with the segment that was taken last, if one does
	kept    []Claim // checkpoints that are not in the bucket

	mu         sync.Mutex
	badTenants map[event.Tenant]bool // whose keys have been reported
	badPacks   map[string]bool       // that have been reported
}

func (v *verifier) report(f Finding) {
	v.sum.Findings++
	v.opt.Report(f)
}

// openReference is to an event that was not met yet: it may be in a partition
// that comes later.
type openReference struct {
	id event.ID
	f  Finding
}

func (v *verifier) later(o openReference) {
	if len(v.open) == maxOpen {
		v.unresolved(o.f)
		return
	}
	v.open = append(v.open, o)
}

// unresolved reports a reference to an event that is not in the log, unless it may
// have stood before its beginning.
func (v *verifier) unresolved(f Finding) {
	if v.began {
		v.sum.Unresolved++
		return
	}
	v.report(f)
}

// partition verifies one partition. Segments are verified side by side, and
// their results taken in order.
func (v *verifier) partition(ctx context.Context, p event.Partition) error {
	ctx, cancel := context.WithCancel(ctx)
	var ahead []*verifying
	defer func() {
		cancel()
		for _, w := range ahead {
			<-w.done
		}
	}()
	claims, err := v.claims(ctx, p)
	if err != nil {
		return err
	}
	stock, err := v.stock(ctx, p)
	if err != nil {
		return err
	}
	chain := stock.floor.start // Hash is zero, after the first segment, where it is not known
	if err := claims.begin(ctx, chain); err != nil {
		return err
	}
	next := func() error {
		w := ahead[0]
		<-w.done
		ahead = ahead[1:]
		if w.err != nil {
			return w.err
		}
		v.take(w, &chain)
		if w.aside {
			return nil
		}
		if w.h == nil {
			return claims.segment(ctx, w.seq, nil)
		}
		return claims.segment(ctx, w.seq, &w.h.hash)
	}
	for at, err := range stock.places(ctx) {
		if err != nil {
			return err
		}
		if len(ahead) == v.ahead {
			if err := next(); err != nil {
				return err
			}
		}
		ahead = append(ahead, v.start(ctx, p, at))
	}
	for len(ahead) > 0 {
		if err := next(); err != nil {
			return err
		}
	}
	return claims.end(ctx)
}

// gap reports the segments that are missing between two.
func (v *verifier) gap(p event.Partition, from, to event.Seq) {
	for s := from + 1; s < to; s++ {
		f := Finding{Partition: p, Seq: s, Index: -1, Key: segmentKey(p, s), What: MissingSegment, Err: ErrDamaged}
		if s-from == maxGap && s+1 < to {
			f.Err = fmt.Errorf("and all up to %d: %w", to-1, ErrDamaged)
			v.report(f)
			return
		}
		v.report(f)
	}
}

// take takes the result of a segment, in order.
func (v *verifier) take(w *verifying, chain *Cursor) {
	for _, f := range w.findings {
		v.report(f)
	}
	v.countDays(w)
	if w.aside {
		v.takeAside(w)
		return
	}
	if w.h == nil {
		*chain = Cursor{Seq: w.seq}
	} else {
		known := chain.Seq == 0 || chain.Hash != Hash{}
		if known && chain.Seq+1 == w.seq && w.h.Prev != chain.Hash && !sabotage.On(sabotage.SwapUnseen) {
			v.report(v.broken(w))
		}
		v.end = ""
		if w.pack != nil && w.seq == w.pack.last {
			v.end = w.key()
		}
		*chain = Cursor{Seq: w.seq, Hash: w.h.hash}
		v.sum.Segments++
	}
	for _, r := range w.refs {
		if r.names {
			v.ids.add(r.id[:])
		} else if !v.ids.has(r.id[:]) {
			f := w.eventFinding(r.index, w.key(), DamagedReference, fmt.Errorf("to event %v, which is not in the log: %w", r.id, ErrDamaged))
			v.later(openReference{r.id, f})
		}
	}
	v.takeNames(w)
	v.sum.Events += w.sum.Events
	v.sum.Bodies += w.sum.Bodies
	v.sum.Blobs += w.sum.Blobs
	v.sum.Bytes += w.sum.Bytes
	v.sum.Expired += w.sum.Expired
	v.sum.Ended += w.sum.Ended
	if v.opt.Progress != nil {
		v.opt.Progress(v.sum)
	}
}

// broken is the finding of a segment that does not name its predecessor. What is
// signed last in a pack is to blame, rather than what is signed and goes on from
// another segment.
func (v *verifier) broken(w *verifying) Finding {
	if v.end != "" && v.end != w.key() {
		return Finding{Partition: w.p, Seq: w.seq - 1, Index: -1, Key: v.end, What: DamagedPack,
			Err: fmt.Errorf("the log does not go on from its last segment: %w", ErrDamaged)}
	}
	return w.finding(DamagedChain, fmt.Errorf("it does not name its predecessor: %w", ErrDamaged))
}

// takeAside takes the result of a segment by which the log is not read.
func (v *verifier) takeAside(w *verifying) {
	for _, r := range w.refs {
		if r.names {
			v.ids.add(r.id[:])
		}
	}
	v.takeNames(w)
	v.sum.Bytes += w.sum.Bytes
}

// takeNames notes the objects that belong to a segment's events.
func (v *verifier) takeNames(w *verifying) {
	for _, b := range w.blobNames {
		v.blobs.add([]byte(b))
	}
	if w.h == nil {
		return
	}
	for _, p := range w.h.Pages {
		v.pageIDs.add(p.Page[:])
	}
}

// strangers reports what lies under log/, checkpoint/ or pack/ and is in no
// partition.
func (v *verifier) strangers(ctx context.Context, under string) error {
	after := ""
	for i := 0; i <= len(v.log.partitions); i++ {
		prefix := under + "0" // sorts behind all of it
		if i < len(v.log.partitions) {
			prefix = fmt.Sprintf("%s/%02x/", under, i)
		}
		for info, err := range v.log.bucket.List(ctx, under+"/", after) {
			if err != nil {
				return err
			}
			if info.Key >= prefix {
				break
			}
			v.report(Finding{Index: -1, Key: info.Key, What: UnknownObject})
		}
		after = prefix + "~" // sorts behind all of the partition
	}
	return nil
}

// orphans counts the objects of bodies and keys, and those nobody refers to.
func (v *verifier) orphans(ctx context.Context) error {
	for info, err := range v.log.bucket.List(ctx, "blob/", "") {
		if err != nil {
			return err
		}
		if !v.blobs.has([]byte(info.Key)) {
			v.sum.OrphanBlobs++
		}
	}
	for info, err := range v.log.bucket.List(ctx, "key/", "") {
		if err != nil {
			return err
		}
		if t, ok := strings.CutPrefix(info.Key, tenantPrefix); ok {
			v.sum.Tenants++
			id, err := event.ParseTenant(t)
			if err != nil {
				v.report(Finding{Index: -1, Key: info.Key, What: UnknownObject})
			} else if err := v.tenantKey(ctx, id); err != nil {
				return err
			}
			continue
		}
		v.sum.Pages++
		page, err := event.ParsePage(info.Key[strings.LastIndexByte(info.Key, '/')+1:])
		if err != nil || !v.pageIDs.has(page[:]) {
			v.sum.OrphanPages++
		}
	}
	return nil
}

// tenantKey reports a tenant's key that does not open, if no event has.
func (v *verifier) tenantKey(ctx context.Context, t event.Tenant) error {
	_, err := v.openTenant(ctx, t)
	if damaging(err) && v.firstOf(t) {
		v.report(Finding{Index: -1, Key: tenantKey(t), What: DamagedTenantKey, Err: err})
		return nil
	}
	if damaging(err) || errors.Is(err, ErrEnded) {
		return nil
	}
	return err
}

// firstOf reports whether a tenant's key was not reported before.
func (v *verifier) firstOf(t event.Tenant) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	first := !v.badTenants[t]
	v.badTenants[t] = true
	return first
}

// read reads an object, again if the store fails. objstore.ErrNotExist and
// ErrDamaged are answers, any other error means that the store did not give any.
func (v *verifier) read(ctx context.Context, key string, limit int64) (b []byte, err error) {
	for try, wait := 1, minPause; ; try, wait = try+1, 4*wait {
		b, _, err = v.log.readAll(ctx, key, limit)
		if errors.Is(err, objstore.ErrTooLarge) {
			err = fmt.Errorf("%w: %w", err, ErrDamaged)
		}
		if err == nil || damaging(err) || try == readTries || ctx.Err() != nil {
			return b, err
		}
		pause(ctx, wait)
	}
}

// damaging tells errors that say what is there from those of a store that fails.
func damaging(err error) bool {
	return errors.Is(err, ErrDamaged) || errors.Is(err, objstore.ErrNotExist) || errors.Is(err, crypto.ErrNotOpened) ||
		errors.Is(err, crypto.ErrMalformed) || errors.Is(err, crypto.ErrPunctured)
}
