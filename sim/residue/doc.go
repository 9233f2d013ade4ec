// Package residue looks for mail that should be gone.
//
// A [Hoard] stands over a bucket and keeps every version of every object that
// was ever put: it is every copy of the bucket that anybody could have made. A
// [Thief] has the hoard, the bucket as it is, the nodes' local databases, and the
// root key as it is now. [Thief.Search] tries what can be tried with these: every
// version of every key page with the key of its day, every part of every event
// under every leaf that it gets hold of, what is sealed for ever, what is sealed
// in the databases, and all bytes as they stand, plain, encoded and compressed.
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
// of it somebody has copied; with a copy of the key page from before the erasure
// it opens until its day is over, as everything does that was taken together with
// its keys. [Result.Copied] counts these.
//
// The thief reads the bytes of the bucket by docs/format.md and uses nothing of
// package eventlog. It does not believe what it reads to be signed, and does not
// care.
package residue
