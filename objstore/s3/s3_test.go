package s3

import (
	"fmt"
	"sync/atomic"
	"testing"

	"holdfast/objstore"
	"holdfast/objstore/objstoretest"
	"holdfast/objstore/s3/versitygwtest"
)

func TestConformance(t *testing.T) {
	server := versitygwtest.StartServer(t)
	var n atomic.Int64
	objstoretest.Run(t, func(t *testing.T) objstore.Bucket {
		return openTest(t, server, fmt.Sprintf("test/%d", n.Add(1)))
	})
}

// openTest opens a bucket on the server and closes it after the test.
func openTest(t *testing.T, server *versitygwtest.Server, prefix string) *Bucket {
	t.Helper()
	b, err := Open(t.Context(), testConfig(server, prefix))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func testConfig(server *versitygwtest.Server, prefix string) Config {
	return Config{
		Endpoint:  server.Endpoint(),
		Bucket:    "holdfast",
		Prefix:    prefix,
		AccessKey: server.Getenv("HOLDFAST_S3_ACCESS_KEY"),
		SecretKey: Secret(server.Getenv("HOLDFAST_S3_SECRET_KEY")),
	}
}
