// Package sabotage breaks the program on purpose, so that it can be shown that
// the judges of the simulation notice.
//
// A released program is built without the tag "sabotage": then [On] is constantly
// false, and the compiler leaves nothing of what stands behind it. With the tag, a
// test chooses one act of sabotage at a time with Commit, or for a program that it
// starts with [VarAct] in its environment. Each act stands where a
// slip of a programmer's could have put it, and does what such a slip would do.
package sabotage

// Act is one way to break the program.
type Act string

// VarAct names an act in the environment.
const VarAct = "HOLDFAST_SABOTAGE"

// The acts.
const (
	None            Act = ""
	Early250        Act = "early-250"        // 250 is said before the message is durable
	Unrepudiated    Act = "unrepudiated"     // what landed after its 451 is not taken back
	LostRace        Act = "lost-race"        // another's segment in our slot is taken for ours
	AmbiguousLanded Act = "ambiguous-landed" // an answer of the store that was lost is taken for success
	LateBlob        Act = "late-blob"        // a large body's part is not waited for
	CutAccepted     Act = "cut-accepted"     // a message that broke off is taken for whole
	ShortBody       Act = "short-body"       // the last octets of a body are lost
	NoIntent        Act = "no-intent"        // a final dot goes out without an intent
	Unmarked        Act = "unmarked"         // a delivery that may be a second one is not marked so
	OutcomeDropped  Act = "outcome-dropped"  // an outcome is forgotten
	BounceDropped   Act = "bounce-dropped"   // a bounce is
	QueueDropped    Act = "queue-dropped"    // a unit is missing from its queue
	LoseWakeUp      Act = "lose-wake-up"     // a writer of the log is sometimes not woken
	LoseTail        Act = "lose-tail"        // who waits for the log's end to move is sometimes not told
	LoseIdle        Act = "lose-idle"        // a session in IDLE is not told of changes
	LoseDue         Act = "lose-due"         // a route is not told that something is due
	UIDFromMemory   Act = "uid-from-memory"  // UIDs come from a counter of the process
	FoldByClock     Act = "fold-by-clock"    // a fold looks at the clock
	FlagForgotten   Act = "flag-forgotten"   // a flag is answered OK and not kept
	ExpungeUndone   Act = "expunge-undone"   // an expunged message stays
	PlainDatabase   Act = "plain-database"   // mail stands unsealed in the local database
	PlainBucket     Act = "plain-bucket"     // mail stands unsealed in the bucket
	SwapUnseen      Act = "swap-unseen"      // segments may stand in each other's place
	KeptTooLong     Act = "kept-too-long"    // mail outlives what its domain asks for
	LedgerSlip      Act = "ledger-slip"      // an outcome is left out of the balance sheet

	FiledForgotten Act = "filed-forgotten" // a day ends without what users have filed
	DueForgotten   Act = "due-forgotten"   // or without what is due
	HoldForgotten  Act = "hold-forgotten"  // or without what holds select
	RatchetStays   Act = "ratchet-stays"   // a day's keys are not forgotten
	LeafLeft       Act = "leaf-left"       // a message is erased, and its key page is not rewritten
	BlobLeft       Act = "blob-left"       // bodies of a day that is over stay in the bucket
	RowStays       Act = "row-stays"       // the index keeps what was erased
	BaseUnchecked  Act = "base-unchecked"  // a Base is taken although two folds disagree
)

// Slow are the acts that show only over days.
func Slow() []Act {
	return []Act{
		FiledForgotten, DueForgotten, HoldForgotten, RatchetStays, LeafLeft, BlobLeft, RowStays, BaseUnchecked,
	}
}

// All are all acts that show within minutes.
func All() []Act {
	return []Act{
		Early250, Unrepudiated, LostRace, AmbiguousLanded, LateBlob, CutAccepted, ShortBody, NoIntent, Unmarked, OutcomeDropped,
		BounceDropped, QueueDropped, LoseWakeUp, LoseTail, LoseIdle, LoseDue, UIDFromMemory, FoldByClock, FlagForgotten, ExpungeUndone,
		PlainDatabase, PlainBucket, SwapUnseen, KeptTooLong, LedgerSlip,
	}
}
