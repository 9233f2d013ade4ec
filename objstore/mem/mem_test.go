package mem_test

import (
	"testing"

	"holdfast/objstore"
	"holdfast/objstore/mem"
	"holdfast/objstore/objstoretest"
)

func TestConformance(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Bucket { return mem.New() })
}
