// Package check holds the judges of the simulation: pure functions from what was
// seen to what was wrong.
//
// What was seen is [Evidence]: what the inhabitants of the world say (package
// sim/world: senders, primaries, users), the log as a fresh reader finds it in
// the bucket, and the folds of every node and of one that began with nothing. A
// judge shares no code with the fold it judges: the little models here are
// written from the promises, not from the product.
//
// Moments. An [Order] numbers what happens. A [Recorder] below all faults of the
// bucket notes the moment at which each object became durable, and inhabitants
// note the moments at which they saw things. So a judge at rest knows what was
// durable when a 250 was read or a final dot arrived: looking after every step
// would find nothing more.
//
// The judges:
//
//   - [Acceptance]: every 250 is in the log, byte for byte, and was when it was
//     read; a transaction is in the log at most once; one that was refused is not
//     delivered.
//   - [Delivery]: every recipient of every message comes to one end; what was
//     delivered arrived; what arrived had an intent before its final dot; a second
//     copy was marked uncertain before its final dot.
//   - [Mailboxes]: what a user was told holds. [Allotted]: mailboxes follow
//     the log: each message is there as often as its events say.
//   - [Folds]: all nodes, and a rebuild from nothing, have folded the same.
//   - [Legible]: nothing of anybody's mail can be read in the bucket or in the
//     local databases.
//   - [Balance]: every balance sheet balances, and says what the log says.
//   - [AtRest]: with faults stopped nothing waits; [Sound]: the log verifies, and
//     a log with two segments swapped does not.
package check

import "fmt"

// Finding is one promise that was not kept. It may name the invented mail of a
// simulation.
type Finding struct {
	Rule string // the judge
	Text string
}

// String tells the finding in one line.
func (f Finding) String() string { return f.Rule + ": " + f.Text }

// court collects the findings of one judge.
type court struct {
	rule  string
	found []Finding
}

func (c *court) finds(format string, args ...any) {
	c.found = append(c.found, Finding{Rule: c.rule, Text: fmt.Sprintf(format, args...)})
}
