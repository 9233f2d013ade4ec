package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/retention"
)

// retentionAge is how old the accounts of the metrics and the status page may be:
// to count what holds select, the index is searched.
const retentionAge = time.Minute

// recentRetention returns accounts that may be a minute old.
func (n *Node) recentRetention(ctx context.Context) (*Retention, error) {
	return n.kept.get(ctx, retentionAge, n.retentionStatus)
}

// retentionStatus makes the accounts.
func (n *Node) retentionStatus(ctx context.Context) (*Retention, error) {
	accounts, err := n.retention.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	whole, err := n.retention.Installation(ctx)
	if err != nil {
		return nil, err
	}
	holds, err := n.retention.Holds(ctx)
	if err != nil {
		return nil, err
	}
	work := n.retention.Work()
	r := &Retention{
		Removed: RemovedObjects{Days: whole.Days, Objects: whole.Objects, Bytes: whole.Bytes, Locked: whole.Locked},
		Tenants: []TenantRetention{}, Bucket: n.objects.last(), Doubt: work.Doubt.Seconds(),
	}
	if work.Trouble != nil {
		r.Trouble = work.Trouble.Error()
	}
	from := whole.Ratchet
	if n.root != nil {
		from = max(from, n.root.Day())
	}
	if from > 0 {
		r.ReadableFrom = from.String()
		// On day d the mail that expires on d is still readable.
		r.Late = n.overdue(from)
	}
	held := map[event.Tenant]uint64{}
	for _, h := range holds {
		held[h.Tenant] += h.Messages
	}
	domains := map[event.Tenant][]string{}
	for _, d := range n.directory.Domains() {
		domains[d.Tenant] = append(domains[d.Tenant], d.Name)
	}
	for _, a := range accounts {
		if a.Tenant == event.SystemTenant {
			continue
		}
		t := n.tenantRetention(a, domains[a.Tenant], held[a.Tenant])
		for _, s := range work.Stuck {
			if s.Tenant == a.Tenant {
				t.Unreadable = append(t.Unreadable, s.Messages...)
			}
		}
		r.Tenants = append(r.Tenants, t)
	}
	slices.SortFunc(r.Tenants, func(a, b TenantRetention) int { return cmp.Compare(a.Tenant, b.Tenant) })
	r.warn(work)
	return r, nil
}

// overdue returns by how many seconds the end of a day is late.
func (n *Node) overdue(d event.Day) float64 {
	return max(0, n.log.Now().Sub((d + 1).Start()).Seconds())
}

func (n *Node) tenantRetention(a retention.Account, domains []string, held uint64) TenantRetention {
	t := TenantRetention{
		Tenant: n.tenantName(a.Tenant), Domains: append([]string{}, domains...), Messages: a.Messages, Bytes: a.Bytes,
		Kept: a.Kept, Holds: a.Holds, Held: held, Erased: a.Erased, ErasedBytes: a.ErasedBytes, Erasing: a.Orders,
	}
	if a.Oldest > 0 {
		end := (a.Oldest + 1).Start()
		t.Oldest, t.NextExpiry = a.Oldest.String(), &end
	}
	if a.Condemned > 0 {
		t.Condemned = a.Condemned.String()
	}
	if a.Expired > 0 {
		t.Expired = a.Expired.String()
	}
	return t
}

// late is from when on a day that has not ended is worth a word.
const late = 24 * time.Hour

// warn says what an administrator should know.
func (r *Retention) warn(work retention.Work) {
	add := func(format string, args ...any) { r.warnings = append(r.warnings, fmt.Sprintf(format, args...)) }
	if work.Doubt > 0 {
		add("the clock of this machine is more than two days ahead of the last day that has ended: nothing expires for another %v, or until you have looked at it "+
			"and know it to be right: holdfast retention confirm-clock", work.Doubt.Round(time.Minute))
	}
	if r.Trouble != "" {
		add("the work at the end of the day is not done, and is tried again: %s; if it does not pass, holdfast log verify names what is damaged", r.Trouble)
	}
	if r.Late > late.Seconds() && work.Doubt == 0 && r.Trouble == "" {
		add("mail of %s should be gone by now; is a node with the role deliver running, and is its clock right?", r.ReadableFrom)
	}
	for _, t := range r.Tenants {
		if n := len(t.Unreadable); n > 0 {
			add("%d messages of %s that are still needed cannot be read, so their day does not expire for a week: %v; see holdfast log verify",
				n, t.Tenant, t.Unreadable[:min(n, 10)])
		}
	}
	if r.Removed.Locked > 0 {
		add("the store keeps %d objects of expired days, for Object Lock or want of leave to delete; they open no more", r.Removed.Locked)
	}
}

// confirmClock takes an administrator's word that the clock is right.
func (n *Node) confirmClock(ctx context.Context, _ struct{}) (ClockAnswer, error) {
	err := n.retention.ConfirmClock(ctx, who(ctx))
	return ClockAnswer{Now: n.log.Now().UTC()}, err
}

// runRetention does what is due now.
func (n *Node) runRetention(ctx context.Context, _ struct{}) (struct{}, error) {
	if n.log.ReadOnly() {
		return struct{}{}, eventlog.ErrReadOnly
	}
	return struct{}{}, n.retention.RunOnce(ctx)
}

var (
	descKept       = prometheus.NewDesc("holdfast_kept_messages", "Messages in the index: not expired and not erased.", []string{"tenant"}, nil)
	descKeptBytes  = prometheus.NewDesc("holdfast_kept_bytes", "Bytes of the messages in the index, as their senders sent them.", []string{"tenant"}, nil)
	descNextExpiry = prometheus.NewDesc("holdfast_next_expiry_timestamp_seconds", "When the oldest day ends that mail is kept to.", []string{"tenant"}, nil)
	descPastDay    = prometheus.NewDesc("holdfast_kept_past_day_messages", "Messages kept past their day because they are filed, due or held.", []string{"tenant"}, nil)
	descHolds      = prometheus.NewDesc("holdfast_holds", "Legal holds that stand.", []string{"tenant"}, nil)
	descHeldMail   = prometheus.NewDesc("holdfast_held_messages", "Messages under legal holds, counted for each hold.", []string{"tenant"}, nil)
	descErased     = prometheus.NewDesc("holdfast_erased_messages", "Messages erased by order so far.", []string{"tenant"}, nil)
	descErasing    = prometheus.NewDesc("holdfast_erasures_open", "Orders of erasure that are not carried out yet.", []string{"tenant"}, nil)
	descUnreadable = prometheus.NewDesc("holdfast_needed_unreadable_messages", "Messages that are needed past their day and cannot be read.", []string{"tenant"}, nil)
	descLate       = prometheus.NewDesc("holdfast_expiry_late_seconds", "For how long a day is over whose mail is still readable; up to some minutes is as it should be.", nil, nil)
	descDoubt      = prometheus.NewDesc("holdfast_clock_doubt_seconds", "For how long this machine's clock is not believed yet, so that nothing expires; 0 when it is believed.", nil, nil)
	descRetTrouble = prometheus.NewDesc("holdfast_retention_trouble", "1 when the work at the end of the day failed and is tried again.", nil, nil)
	descRemoved    = prometheus.NewDesc("holdfast_removed_objects", "Objects removed from the bucket at the ends of days so far.", nil, nil)
	descRemovedB   = prometheus.NewDesc("holdfast_removed_bytes", "Bytes removed from the bucket at the ends of days so far.", nil, nil)
	descLocked     = prometheus.NewDesc("holdfast_locked_objects", "Objects of expired days that the store did not let go.", nil, nil)
	descObjects    = prometheus.NewDesc("holdfast_bucket_objects", "Objects in the bucket at the last count, by kind.", []string{"kind"}, nil)
	descObjectsB   = prometheus.NewDesc("holdfast_bucket_bytes", "Bytes in the bucket at the last count, by kind.", []string{"kind"}, nil)
	descCounted    = prometheus.NewDesc("holdfast_bucket_counted_timestamp_seconds", "When the bucket was counted last.", nil, nil)
	descRebuild    = prometheus.NewDesc("holdfast_rebuild_objects", "Objects that a node reads which has lost its local database.", nil, nil)
	descRebuildB   = prometheus.NewDesc("holdfast_rebuild_bytes", "Bytes that a node reads which has lost its local database.", nil, nil)
)

// retentionDescs are all of these.
func retentionDescs() []*prometheus.Desc {
	return []*prometheus.Desc{
		descKept, descKeptBytes, descNextExpiry, descPastDay, descHolds, descHeldMail, descErased, descErasing, descUnreadable, descLate, descDoubt,
		descRetTrouble, descRemoved, descRemovedB, descLocked, descObjects, descObjectsB, descCounted, descRebuild, descRebuildB,
	}
}

func (n *Node) collectRetention(gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	r, err := n.recentRetention(context.Background())
	if err != nil {
		return // a stopped projection is told elsewhere
	}
	gauge(descLate, r.Late)
	gauge(descDoubt, r.Doubt)
	gauge(descRetTrouble, truth(r.Trouble != ""))
	gauge(descRemoved, float64(r.Removed.Objects))
	gauge(descRemovedB, float64(r.Removed.Bytes))
	gauge(descLocked, float64(r.Removed.Locked))
	for _, t := range r.Tenants {
		gauge(descKept, float64(t.Messages), t.Tenant)
		gauge(descKeptBytes, float64(t.Bytes), t.Tenant)
		if t.NextExpiry != nil {
			gauge(descNextExpiry, float64(t.NextExpiry.Unix()), t.Tenant)
		}
		gauge(descPastDay, float64(t.Kept), t.Tenant)
		gauge(descHolds, float64(t.Holds), t.Tenant)
		gauge(descHeldMail, float64(t.Held), t.Tenant)
		gauge(descErased, float64(t.Erased), t.Tenant)
		gauge(descErasing, float64(t.Erasing), t.Tenant)
		gauge(descUnreadable, float64(len(t.Unreadable)), t.Tenant)
	}
	b := n.objects.last()
	if b == nil {
		return
	}
	gauge(descCounted, float64(b.At.Unix()))
	for kind, c := range b.Kinds {
		gauge(descObjects, float64(c.Objects), kind)
		gauge(descObjectsB, float64(c.Bytes), kind)
	}
	gauge(descRebuild, float64(b.Rebuild.Objects))
	gauge(descRebuildB, float64(b.Rebuild.Bytes))
}
