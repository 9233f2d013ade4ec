//go:build !failpoint

package failpoint

// Hit does nothing in a program that is not built for crashing.
func Hit(Point) {}

// Built says whether the program was built for crashing.
const Built = false
