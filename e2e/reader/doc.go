// Package reader tests that docs/reader, an independent reader in Python, reads
// the sample bucket as the log itself does, and sees each damage.
package reader
