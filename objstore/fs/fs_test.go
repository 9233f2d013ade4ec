package fs

import (
	"testing"

	"holdfast/objstore"
	"holdfast/objstore/objstoretest"
)

func TestConformance(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Bucket { return openTest(t, t.TempDir()) })
}

// openTest opens the bucket in dir and closes it after the test.
func openTest(t *testing.T, dir string) *Bucket {
	t.Helper()
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}
