// Package disk is the seam between the program and the file system, for the files
// that must survive a crash: the objects of a file bucket and the root key.
//
// In a released program it is nothing: [File] and [Root] are those of package os,
// and the functions are os's own. Built with the tag "failpoint", and when the
// environment names a journal, it keeps a record of what was written, named,
// removed and fsynced. After a kill package crash reads it and takes away from the
// disk what a power failure would have been allowed to take. The fault model is in
// package disk/journal.
//
// Under the tag [File] and [Root] have only the methods that the journal knows. Who
// needs another call finds that the program does not build for crashing, and adds
// the call here together with what a power failure does to it. A test of package
// crash makes sure that nobody goes around this package.
package disk

// The environment of a program built for crashing.
const (
	// VarJournal names the journal; beside it is a directory of the same name and
	// ".trash".
	VarJournal = "HOLDFAST_DISK_JOURNAL"
	// VarDelay is how many microseconds an fsync takes at most; a random time up to
	// that. Without it the disk's own fsync is called.
	VarDelay = "HOLDFAST_DISK_DELAY"
	// VarSabotage makes the layer forget fsyncs of what is reached through a [Root],
	// as a bucket would that does not make them: [SkipFile], [SkipDir], [LateFile]
	// or [NoFlush].
	VarSabotage = "HOLDFAST_DISK_SABOTAGE"
)

// The sabotages, by which the suite shows that it would notice them.
const (
	SkipFile = "skip-file" // files are never fsynced
	SkipDir  = "skip-dir"  // directories are never fsynced
	NoFlush  = "no-flush"  // what an earlier process left is not flushed when a bucket is opened
	LateFile = "late-file" // a file is fsynced only after the directory that names it
)
