// Package failpoint lets a test kill this program at a named point.
//
// Code calls [Hit] around every step that makes something durable, and around
// those that act upon it. A released program is built without the tag "failpoint":
// then Hit is empty and the compiler leaves nothing of it. With the tag, the
// environment says where the program dies:
//
//	HOLDFAST_FAILPOINT=fs.named:3    at the third time that it gets there
//	HOLDFAST_FAILPOINT_SEEN=FILE     each point that is reached is noted there once
//
// It dies of SIGKILL, which it sends to itself: nothing is flushed, closed or
// unlocked. Package crash chooses the points, and its tests assert that each name
// in [All] is really reached.
package failpoint

// Point is the name of a place in the program.
type Point string

// The points of a file bucket.
const (
	FSDirMade     Point = "fs.dir.made"     // a directory was made, and not fsynced into its parent
	FSTempMade    Point = "fs.temp.made"    // an empty temporary file is there
	FSTempWritten Point = "fs.temp.written" // it has its bytes
	FSTempSynced  Point = "fs.temp.synced"  // and they are durable
	FSNamed       Point = "fs.named"        // the value has its key
	FSDirSynced   Point = "fs.dir.synced"   // durably
	FSExists      Point = "fs.exists"       // "exists" is about to be answered
	FSDeleted     Point = "fs.deleted"      // a key was removed, not durably
	FSFlushed     Point = "fs.flushed"      // what an earlier process wrote is durable
)

// The points of the root key's file.
const (
	RootWritten Point = "root.written" // the new file has its bytes
	RootSynced  Point = "root.synced"  // durably
	RootNamed   Point = "root.named"   // it is in its place
	RootDurable Point = "root.durable" // durably
)

// The points of the log.
const (
	FormatPut       Point = "format.put"     // before the object that says what a bucket is
	FormatDurable   Point = "format.durable" // after it
	TenantPut       Point = "tenant.put"
	TenantDurable   Point = "tenant.durable"
	PagePut         Point = "page.put"
	PageDurable     Point = "page.durable"
	BlobPut         Point = "blob.put"
	BlobDurable     Point = "blob.durable"
	SegmentPut      Point = "segment.put"     // a segment is built, and not sent
	SegmentDurable  Point = "segment.durable" // it is in the bucket, and nobody knows
	SegmentSettled  Point = "segment.settled" // the process knows; nobody was told
	SegmentAgain    Point = "segment.again"   // a put without an answer is about to be repeated
	AppendTold      Point = "append.told"     // who appended knows
	LeasePut        Point = "lease.put"
	LeaseDurable    Point = "lease.durable"
	AcceptedUnsaid  Point = "accepted.unsaid"  // a message is durable, its 250 not written
	ReplySaid       Point = "reply.said"       // a reply, or several, was written to a sender
	CommandFolded   Point = "command.folded"   // a command's event has its verdict, which nobody has heard
	FoldCommit      Point = "fold.commit"      // before the local database's transaction
	FoldCommitted   Point = "fold.committed"   // after it
	FoldNewVersion  Point = "fold.complete"    // before a projection goes into service for the first time
	FoldInService   Point = "fold.inservice"   // after it
	NodeKeysOpen    Point = "node.keys"        // the root key is open
	NodeBucketOpen  Point = "node.bucket"      // the bucket is open and probed
	NodeLogOpen     Point = "node.log"         // the log is open, the root key does not know it
	NodeLogMarked   Point = "node.marked"      // the root key knows its log
	NodeStoreOpen   Point = "node.store"       // the local database is open
	NodeServices    Point = "node.services"    // everything is open, nothing is served
	NodeAdmin       Point = "node.admin"       // commands are answered
	NodeDirectory   Point = "node.directory"   // the directory is folded
	NodeKeysReady   Point = "node.prepared"    // today's key pages are stored
	NodeAccepts     Point = "node.accepts"     // mail is accepted
	NodeCaughtUp    Point = "node.caughtup"    // everything is folded
	NodeReady       Point = "node.ready"       // everything is served, "ready" not said
	NodeStopping    Point = "node.stopping"    // asked to leave, nothing ended
	NodeServersDown Point = "node.serversdown" // nobody is served any more
)

// The points of a delivery.
const (
	IntentAppend   Point = "intent.append"   // before the intent
	IntentDurable  Point = "intent.durable"  // it is in the log and folded
	DotUnsent      Point = "dot.unsent"      // before the final dot
	DotSent        Point = "dot.sent"        // after it, before its answer
	DotAnswered    Point = "dot.answered"    // its answer is known here alone
	OutcomeAppend  Point = "outcome.append"  // before the outcome
	OutcomeDurable Point = "outcome.durable" // it is in the log, and not folded
	OutcomeFolded  Point = "outcome.folded"  // and folded
	HealthAppend   Point = "health.append"   // before a change of a primary's state
	HealthDurable  Point = "health.durable"
)

// The points of the work at the end of days, and of erasure.
const (
	DayCondemned     Point = "day.condemned"     // the days that are over are condemned, and nothing is kept yet
	MailKept         Point = "mail.kept"         // a message that is still needed was written anew
	DayExpired       Point = "day.expired"       // days have expired for their tenants, and the ratchet stands
	RatchetMoved     Point = "ratchet.moved"     // the log says that the ratchet moves; perhaps it has not here
	DayRemove        Point = "day.remove"        // before an object of an expired day is removed
	DayRemoved       Point = "day.removed"       // after it
	DaysGone         Point = "days.gone"         // all of them are removed, and the log does not say so
	OrphansNamed     Point = "orphans.named"     // bodies without an event are condemned, and there
	BaseStored       Point = "base.stored"       // the pieces of a Base are in the bucket, and nothing names them
	BaseNamed        Point = "base.named"        // the log names it, and no node can start from it
	BasePublished    Point = "base.published"    // a node can
	PackPut          Point = "pack.put"          // a pack is built, and not sent
	PackDurable      Point = "pack.durable"      // it is in the bucket, and not read back
	FloorPut         Point = "floor.put"         // it was read back; the floor is about to rise
	FloorDurable     Point = "floor.durable"     // the floor has risen
	PackReplaced     Point = "pack.replaced"     // a pack is about to be removed, since another one has its segments
	PackDead         Point = "pack.dead"         // a pack is about to be removed, since nobody wants what is in it
	KeyRemove        Point = "key.remove"        // the key of a packed segment is about to be removed
	ErasureOrdered   Point = "erasure.ordered"   // an order stands in the log, and nothing is done
	PageRewrite      Point = "page.rewrite"      // before a key page is rewritten without what was erased
	PageRewritten    Point = "page.rewritten"    // durably
	ErasedBlob       Point = "erased.blob"       // before a body part of an erased message is removed
	ErasureDone      Point = "erasure.done"      // nothing opens it any more, and nothing certifies that
	ErasureCertified Point = "erasure.certified" // the log does, and nobody was told
)

// All returns every point, in the order of the lists above.
func All() []Point { return append(Brief(), Slow()...) }

// Slow returns the points that only a program reaches whose days pass.
func Slow() []Point {
	return []Point{
		DayCondemned, MailKept, DayExpired, RatchetMoved, DayRemove, DayRemoved, DaysGone, OrphansNamed,
		BaseStored, BaseNamed, BasePublished, PackPut, PackDurable, FloorPut, FloorDurable, PackReplaced, PackDead, KeyRemove,
		ErasureOrdered, PageRewrite, PageRewritten, ErasedBlob, ErasureDone, ErasureCertified,
	}
}

// Brief returns the points that a program reaches within seconds.
func Brief() []Point {
	return []Point{
		FSDirMade, FSTempMade, FSTempWritten, FSTempSynced, FSNamed, FSDirSynced, FSExists, FSDeleted, FSFlushed,
		RootWritten, RootSynced, RootNamed, RootDurable,
		FormatPut, FormatDurable, TenantPut, TenantDurable, PagePut, PageDurable, BlobPut, BlobDurable,
		SegmentPut, SegmentDurable, SegmentSettled, SegmentAgain, AppendTold, LeasePut, LeaseDurable,
		AcceptedUnsaid, ReplySaid, CommandFolded, FoldCommit, FoldCommitted, FoldNewVersion, FoldInService,
		NodeKeysOpen, NodeBucketOpen, NodeLogOpen, NodeLogMarked, NodeStoreOpen, NodeServices, NodeAdmin,
		NodeDirectory, NodeKeysReady, NodeAccepts, NodeCaughtUp, NodeReady, NodeStopping, NodeServersDown,
		IntentAppend, IntentDurable, DotUnsent, DotSent, DotAnswered, OutcomeAppend, OutcomeDurable, OutcomeFolded,
		HealthAppend, HealthDurable,
	}
}

// The environment.
const (
	VarPoint = "HOLDFAST_FAILPOINT"
	VarSeen  = "HOLDFAST_FAILPOINT_SEEN"
)
