// Package residue looks for mail that should be gone.
//
// A [Hoard] stands over a bucket and keeps every version of every object that
// was ever put: it is every copy of the bucket that anybody could have made. A
// [Thief] has the hoard, the bucket as it is, the nodes' local databases, and the
// root key as it is now. [Thief.Search] tries what can be tried with these: every
// version of every key page with the key of its day, every part of every event
// under every leaf that it gets hold of, what is sealed for ever, what is sealed
// in the databases and in every piece of every Base, and all bytes as they stand,
// plain, encoded and compressed. Of a database on disk it reads the files themselves,
// with the installation's key: an older version of a row stands in them long after
// the database shows it no more.
//
// A message is recognised by its mark: a word that occurs in its text, its header
// and its envelope, and nowhere else ([Mark]). Who searches says what has become
// of each mark ([Fate]).
//
// # What gone means
//
// A message has expired when its day is over, or the day of the event by which it
// was kept last: then nothing opens it, from any copy. One that was erased does
// not open with what is in the bucket and the databases now, with whatever parts
// of it somebody has copied. Until its day is over two things are passed over: it
// opens with a copy of the key page from before the erasure, as everything does that
// was taken together with its keys ([Result.Copied]), and an earlier copy of a Base
// has what the index knew of it, under the day's key ([Result.CopiedBases]). When its
// day is over nothing is passed over: the copied pages of that day are tried once more
// with every key that can still be derived.
//
// The thief reads the bytes of the bucket by docs/format.md and uses nothing of
// package eventlog. It does not believe what it reads to be signed, and does not
// care.
package residue
