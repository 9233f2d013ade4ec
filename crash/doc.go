// Package crash kills Holdfast for real: the built program, by SIGKILL, at named
// points around every step that makes something durable and at random moments,
// under load, thousands of times, and lets a process of its own judge what is left.
//
//	make crash                   300 kills; part of make check with fewer worlds whose days pass
//	make crash-long KILLS=10000
//
// # What is killed, and where
//
// A world is one node on one bucket, with senders, a user at an IMAP client and a
// primary that takes everything. It begins with nothing. Its node is started, killed
// and started again a dozen times; in the end faults stop, everything has to be
// delivered, and the judge looks.
//
// Each run of the node ends at a failpoint (package failpoint lists them; they take turns,
// each at the first to the thirtieth time that the program gets there), or by SIGKILL at a random moment from the first instant on,
// also while it stops after SIGTERM. The primary goes down and comes back in between.
// With an S3 bucket the S3 server, versitygw, is killed and started again too.
//
// # Days
//
// In some worlds days pass, by the clock for tests that docs/retention.md tells of:
// it is moved on before a start, and what is in the bucket made older by as much.
// Mail is kept for a day there; users file some of it, an administrator puts some
// under a hold and erases some. A week is five lives: mail comes in; messages are
// erased; segments are packed; days end; what is over is removed. The points at
// which these nodes die are around every step of that work, of the Bases that it
// takes and of erasures. In the end the program has to find everything that is to
// be kept with nothing but the bucket and the root key.
//
// # What a kill takes along
//
// The fs bucket and the root key are written through package disk, which keeps a
// journal of what was not fsynced. After more than half of the kills the power
// fails as well: what the journal says is not durable is lost, all of it or a
// random part, torn files included. Package disk/journal states the fault model.
// Otherwise the journal goes on, and what one process left unsynced may be lost
// under a later one. The S3 server does not fsync; with it only processes die.
//
// The local database is only a cache: it is kept, deleted, put back to an older
// state, or loses pages that were never synced.
//
// # What is demanded
//
// Package crash/judge, in a process of its own, gets the record of what was sent and
// answered, of what the primary received, and of what the user was shown; it opens
// the bucket with the released code and looks that every 250 is there under its id,
// byte for byte; that nothing is there twice, or was refused, or sent by nobody;
// that log verify finds nothing; that what came to the primary more than once is
// marked uncertain; that UIDs, UIDVALIDITY, flags and removals are over a kill what
// they were before; that in the end everything is delivered and the books balance.
//
// Where days pass: that what is not over, or was filed or held before it was, can be
// read, byte for byte, and nothing else when the work is done; that what was said to
// be erased opens no more and is shown nowhere, with a certificate that holds; that
// each order that stands in the log ends with one; that no object is left of a day
// that is over; that mail which was due is delivered days later.
//
// # That it would notice
//
// The tests run the suite against a disk layer that forgets the fsync of files, the
// one of directories, or makes the former too late, and against records that were
// falsified, one per demand; each must be found. make crash does the same with a
// program that is broken on purpose at the end of days and in erasures (package
// sabotage). Another test makes sure that every
// failpoint is reached, and one that objstore/fs and the root key use no call to the
// operating system that the journal does not know.
//
// # Replaying
//
// A failure prints the seed of its world. HOLDFAST_CRASH_SEED=SEED runs that one world
// again: the same plan of kills and the same luck of the disk, but not the same
// interleaving, so that a rare failure may take several tries.
package crash
