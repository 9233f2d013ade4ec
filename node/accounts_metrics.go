package node

import (
	"context"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// The accounts are told twice: for each tenant, and with the prefix
// holdfast_domain_ for each of its domains, whose sum may be more.
var (
	descHolds      = prometheus.NewDesc("holdfast_holds", "Legal holds that stand.", []string{"tenant"}, nil)
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
	return slices.Concat(tenantKept.all(), domainKept.all(), []*prometheus.Desc{
		descHolds, descErasing, descUnreadable, descLate, descDoubt, descRetTrouble, descRemoved, descRemovedB, descLocked, descObjects, descObjectsB, descCounted, descRebuild, descRebuildB,
	})
}

// keptDescs are the metrics of an account.
type keptDescs struct{ messages, bytes, next, past, held, erased, erasedBytes *prometheus.Desc }

var (
	tenantKept = newKeptDescs("holdfast_", "", "tenant")
	domainKept = newKeptDescs("holdfast_domain_", " To or from users of the domain; one of several domains counts in each.", "tenant", "domain")
)

func newKeptDescs(prefix, more string, labels ...string) keptDescs {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(prefix+name, help+more, labels, nil)
	}
	return keptDescs{
		messages:    desc("kept_messages", "Messages in the index: not expired and not erased."),
		bytes:       desc("kept_bytes", "Bytes of the messages in the index, as their senders sent them."),
		next:        desc("next_expiry_timestamp_seconds", "When the oldest day ends that mail is kept to; absent when there is none."),
		past:        desc("past_day_messages", "Messages kept past their day because they are filed, due or held."),
		held:        desc("under_hold_messages", "Messages that at least one legal hold keeps; what is held in the queue is in holdfast_queue_recipients."),
		erased:      desc("erased_messages", "Messages erased by order so far."),
		erasedBytes: desc("erased_bytes", "Bytes of the messages erased by order so far."),
	}
}

func (d keptDescs) all() []*prometheus.Desc {
	return []*prometheus.Desc{d.messages, d.bytes, d.next, d.past, d.held, d.erased, d.erasedBytes}
}

func (d keptDescs) collect(k MailKept, gauge func(d *prometheus.Desc, v float64, labels ...string), labels ...string) {
	gauge(d.messages, float64(k.Messages), labels...)
	gauge(d.bytes, float64(k.Bytes), labels...)
	if k.NextExpiry != nil {
		gauge(d.next, float64(k.NextExpiry.Unix()), labels...)
	}
	gauge(d.past, float64(k.PastDay), labels...)
	gauge(d.held, float64(k.UnderHold), labels...)
	gauge(d.erased, float64(k.Erased), labels...)
	gauge(d.erasedBytes, float64(k.ErasedBytes), labels...)
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
		tenantKept.collect(t.MailKept, gauge, t.Tenant)
		for _, d := range t.Domains {
			domainKept.collect(d.MailKept, gauge, t.Tenant, d.Name)
		}
		gauge(descHolds, float64(t.Holds), t.Tenant)
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
