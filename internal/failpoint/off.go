//go:build !failpoint

package failpoint

// Hit does nothing in a program that is not built for crashing.
func Hit(Point) {}

// Hurry divides the time for which a dead node's lease is waited for.
const Hurry = 1

// Built says whether the program was built for crashing.
const Built = false
