package node

import "time"

// Retention is what is kept, until when, and how the daily work stands. Days are
// UTC, as 2006-01-02.
type Retention struct {
	// ReadableFrom is the first expiry day whose mail can be read: the keys of
	// those before are forgotten.
	ReadableFrom string `json:"readable_from,omitempty"`
	// Late is by how much the end of a day is overdue, in seconds; 0 when it is not.
	Late float64 `json:"late_seconds"`
	// Doubt is for how long the clock is not believed yet, in seconds, so that
	// nothing expires; 0 when it is believed.
	Doubt   float64           `json:"clock_doubt_seconds"`
	Trouble string            `json:"trouble,omitempty"` // what kept the last day's work from being done
	Removed RemovedObjects    `json:"removed"`
	Tenants []TenantRetention `json:"tenants"`
	// Bucket is absent on a node that has not counted the objects.
	Bucket *BucketCount `json:"bucket,omitempty"`

	warnings []string
}

// RemovedObjects is what was removed from the bucket at the ends of days so far.
type RemovedObjects struct {
	Days    uint64 `json:"days"`
	Objects uint64 `json:"objects"`
	Bytes   uint64 `json:"bytes"`
	// Locked objects are those that the store did not let go; they open no more.
	Locked uint64 `json:"locked"`
}

// TenantRetention is what is kept of one tenant's mail.
type TenantRetention struct {
	Tenant string `json:"tenant"`
	MailKept
	// Domains are the tenant's, and those that were, of whose mail some is left or
	// was erased. A message counts for the domain of each recipient that is one of
	// the tenant's, and for that of the user who sent it, so that the sums of the
	// domains may be more than the tenant's.
	Domains []DomainRetention `json:"domains"`
	Holds   int               `json:"holds"`   // that stand
	Erasing int               `json:"erasing"` // orders of erasure that are not carried out yet
	// Condemned is the last day that was condemned, Expired the last one that has
	// expired.
	Condemned string `json:"condemned_through,omitempty"`
	Expired   string `json:"expired_through,omitempty"`
	// Unreadable are messages that are needed and cannot be read: their day does
	// not expire for a week.
	Unreadable []string `json:"unreadable,omitempty"`
}

// Several reports that the tenant's sum says more than its domains.
func (t TenantRetention) Several() bool {
	return len(t.Domains) != 1 || t.MailKept.Messages != t.Domains[0].Messages || t.MailKept.Erased != t.Domains[0].Erased
}

// DomainRetention is what is kept of the mail of one domain.
type DomainRetention struct {
	Name string `json:"name"`
	MailKept
}

// MailKept is how much mail is kept, and was erased. It is the mail that came in or
// was sent; bytes are as the senders sent them.
type MailKept struct {
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
	// Oldest is the first day that mail is kept to; it is readable through that
	// day. NextExpiry is the moment at which that is over.
	Oldest     string     `json:"oldest_day,omitempty"`
	NextExpiry *time.Time `json:"next_expiry,omitempty"`
	// PastDay is how many messages were kept past the day on which they were to
	// expire, because they are filed, due or under a hold.
	PastDay uint64 `json:"past_day"`
	// UnderHold is how many messages at least one legal hold keeps. What is held in
	// the queue is another thing: see [DomainStatus].
	UnderHold   uint64 `json:"under_hold"`
	Erased      uint64 `json:"erased"` // by order, ever
	ErasedBytes uint64 `json:"erased_bytes"`
}

// BucketCount is what a listing of the whole bucket saw.
type BucketCount struct {
	At      time.Time `json:"at"`
	Objects uint64    `json:"objects"`
	Bytes   uint64    `json:"bytes"`
	// Kinds are the same by the first part of the key: log, pack, blob, key, snap
	// and so on.
	Kinds map[string]ObjectCount `json:"kinds"`
	// Rebuild is what a node reads that has lost its local database.
	Rebuild ObjectCount `json:"rebuild"`
}

// ObjectCount counts objects.
type ObjectCount struct {
	Objects uint64 `json:"objects"`
	Bytes   uint64 `json:"bytes"`
}
