// Package year lives through months of Holdfast in minutes: the production
// assembly (node.New with node.Seams) on a bucket in memory, inside
// testing/synctest, with two nodes, mail every day, users who file and delete,
// an administrator who holds and erases and changes how long mail is kept,
// primaries that are away for days, come back knowing nobody, and lose answers, and
// nodes that are stopped, killed, lose their databases, stand still in the middle of
// a night's work and wake when another one has done it, and are away for days
// themselves.
//
// What should have become of each message is told by a [Ledger], which knows
// what was sent and what was done to it, and shares no code with the product.
// Every night, once the day's work is done, the judges look:
//
//   - gone: package residue, with every version of every object that was ever in
//     the bucket, Bases too, with all databases, and with the root key as it is,
//     opens nothing that has expired, nor, with what is there now, what was erased;
//   - kept: what is not due to go opens, and users see it, byte for byte, under the
//     UID that it always had, with its flags;
//   - UIDs and UIDVALIDITY never change, and no UID names another message;
//   - the balance sheets balance;
//   - bounded: objects and bytes in the bucket follow the mail that is kept.
//
// At the end a node that begins with nothing must have folded the same as those
// that lived through it all, by their hashes, and with a bounded number of reads;
// and a thief who comes only then, with the bucket as it is and the root key, opens
// all that is kept and nothing else.
//
// Nodes look for each other's segments once a minute here and not every second,
// which is most of what a day without mail costs.
package year
