//go:build race

package eventlog

// underRace says that the race detector is at work, which is ten times slower:
// the longest tests do less then, and are run in full without it.
const underRace = true
