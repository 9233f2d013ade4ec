package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

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
	domains := map[event.Tenant][]string{}
	for _, d := range n.directory.Domains() {
		domains[d.Tenant] = append(domains[d.Tenant], d.Name)
	}
	for t := range domains {
		if !slices.ContainsFunc(accounts, func(a retention.Account) bool { return a.Tenant == t }) {
			accounts = append(accounts, retention.Account{Tenant: t}) // nothing has come in yet
		}
	}
	for _, a := range accounts {
		if a.Tenant == event.SystemTenant {
			continue
		}
		t := n.tenantRetention(a, domains[a.Tenant])
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

// tenantRetention tells the account of a tenant and of its domains: those that are
// here, and those of whose mail there is something left.
func (n *Node) tenantRetention(a retention.Account, here []string) TenantRetention {
	t := TenantRetention{
		Tenant: n.tenantName(a.Tenant), Domains: []DomainRetention{}, Holds: a.Holds, Erasing: a.Orders,
		MailKept: newMailKept(a.Messages, a.Bytes, a.Oldest, a.Past, a.Held, a.Erased, a.ErasedBytes),
	}
	for _, d := range a.Domains {
		t.Domains = append(t.Domains, DomainRetention{
			Name: d.Domain, MailKept: newMailKept(d.Messages, d.Bytes, d.Oldest, d.Past, d.Held, d.Erased, d.ErasedBytes),
		})
	}
	for _, name := range here {
		if !slices.ContainsFunc(t.Domains, func(d DomainRetention) bool { return d.Name == name }) {
			t.Domains = append(t.Domains, DomainRetention{Name: name})
		}
	}
	slices.SortFunc(t.Domains, func(a, b DomainRetention) int { return cmp.Compare(a.Name, b.Name) })
	if a.Condemned > 0 {
		t.Condemned = a.Condemned.String()
	}
	if a.Expired > 0 {
		t.Expired = a.Expired.String()
	}
	return t
}

func newMailKept(messages, bytes uint64, oldest event.Day, past, held, erased, erasedBytes uint64) MailKept {
	k := MailKept{Messages: messages, Bytes: bytes, PastDay: past, UnderHold: held, Erased: erased, ErasedBytes: erasedBytes}
	if oldest > 0 {
		end := (oldest + 1).Start()
		k.Oldest, k.NextExpiry = oldest.String(), &end
	}
	return k
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
