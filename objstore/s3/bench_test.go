package s3

import (
	"bytes"
	"fmt"
	"testing"

	"holdfast/objstore"
	"holdfast/objstore/s3/versitygwtest"
)

// BenchmarkPut16K creates objects of 16 KiB on a server on this machine, one at
// a time.
func BenchmarkPut16K(b *testing.B) {
	server := versitygwtest.StartServer(b)
	bucket, err := Open(b.Context(), testConfig(server, ""))
	if err != nil {
		b.Fatal(err)
	}
	defer bucket.Close()
	value := bytes.Repeat([]byte("x"), 16<<10)
	b.SetBytes(int64(len(value)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		key := fmt.Sprintf("log/00/%020d", i)
		if _, err := bucket.Put(b.Context(), key, bytes.NewReader(value), int64(len(value)), objstore.PutOptions{IfAbsent: true}); err != nil {
			b.Fatal(err)
		}
	}
}
