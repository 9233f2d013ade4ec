package versitygwtest

import (
	"context"
	"fmt"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Mode is who may let go of a locked object.
type Mode string

// The modes of Object Lock. Nobody may under Compliance; under Governance whoever
// has leave for it and says so in the request, which Holdfast never does.
const (
	Compliance Mode = "COMPLIANCE"
	Governance Mode = "GOVERNANCE"
)

// MakeLocked makes a bucket with Object Lock, in which every object is kept for
// the given number of days.
//
// On a server with versions this is as on Amazon's: a delete hides the object and
// its version stays. On one without, the delete itself is refused.
func (s *Server) MakeLocked(ctx context.Context, bucket string, mode Mode, days uint) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	if err := c.MakeBucket(ctx, bucket, minio.MakeBucketOptions{Region: "us-east-1", ObjectLocking: true}); err != nil {
		return fmt.Errorf("make a locked bucket: %w", err)
	}
	how, unit := minio.RetentionMode(mode), minio.Days
	if err := c.SetObjectLockConfig(ctx, bucket, &how, &days, &unit); err != nil {
		return fmt.Errorf("lock a bucket: %w", err)
	}
	return nil
}

// Versions counts what is kept of the objects under a prefix: versions that can be
// read, and marks that something was deleted.
func (s *Server) Versions(ctx context.Context, bucket, prefix string) (versions, deleted int, err error) {
	c, err := s.client()
	if err != nil {
		return 0, 0, err
	}
	for o := range c.ListObjects(ctx, bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true, WithVersions: true}) {
		switch {
		case o.Err != nil:
			return 0, 0, o.Err
		case o.IsDeleteMarker:
			deleted++
		default:
			versions++
		}
	}
	return versions, deleted, nil
}

func (s *Server) client() (*minio.Client, error) {
	return minio.New(s.addr, &minio.Options{Creds: credentials.NewStaticV4(s.access, s.secret, ""), Region: "us-east-1"})
}
