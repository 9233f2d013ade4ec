// Package open opens the bucket that a URL names.
//
//	file:PATH                                   a local directory (package fs)
//	s3://BUCKET/PREFIX?endpoint=URL&region=R    an S3 server (package s3)
//	mem:                                        memory, gone with the process
//
// PATH may be relative and is made if missing. For s3 the prefix and the region
// may be left out, and without an endpoint Amazon's for the region is taken. The
// keys come from the environment, HOLDFAST_S3_ACCESS_KEY and
// HOLDFAST_S3_SECRET_KEY, never from the URL. A missing S3 bucket is created if
// the server permits it; nothing else is created remotely.
package open

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"holdfast/objstore"
	"holdfast/objstore/fs"
	"holdfast/objstore/mem"
	"holdfast/objstore/s3"
)

// ErrUnsupported is returned for a URL of no supported kind.
var ErrUnsupported = errors.New("not a supported bucket URL (supported are file:PATH, s3://BUCKET/PREFIX?endpoint=URL&region=R and mem:)")

// Names of the environment variables with the keys of an S3 server.
const (
	AccessKeyVar = "HOLDFAST_S3_ACCESS_KEY"
	SecretKeyVar = "HOLDFAST_S3_SECRET_KEY"
)

const defaultRegion = "us-east-1"

// Open opens the bucket that rawURL names. Env looks up environment variables,
// as os.Getenv does. The Closer releases the bucket when no call is under way
// any more. Errors of the implementations, such as fs.ErrLocked, are wrapped.
func Open(ctx context.Context, rawURL string, env func(string) string) (objstore.Bucket, io.Closer, error) {
	scheme, rest, ok := strings.Cut(rawURL, ":")
	if !ok {
		return nil, nil, ErrUnsupported
	}
	switch scheme {
	case "file":
		path, err := filePath(rest)
		if err != nil {
			return nil, nil, err
		}
		b, err := fs.Open(path)
		if err != nil {
			return nil, nil, err
		}
		return b, b, nil
	case "s3":
		c, err := s3Config(rawURL, env)
		if err != nil {
			return nil, nil, fmt.Errorf("s3 bucket URL: %w", err)
		}
		b, err := s3.Open(ctx, c)
		if err != nil {
			return nil, nil, err
		}
		return b, b, nil
	case "mem":
		if rest != "" {
			return nil, nil, fmt.Errorf("%w: mem: takes nothing behind the colon", ErrUnsupported)
		}
		return mem.New(), io.NopCloser(nil), nil
	}
	return nil, nil, fmt.Errorf("%w: scheme %q", ErrUnsupported, scheme)
}

// filePath returns the path of file:PATH. The form file:///PATH is taken too,
// since other programs write it so.
func filePath(rest string) (string, error) {
	if path, ok := strings.CutPrefix(rest, "//"); ok {
		if !strings.HasPrefix(path, "/") {
			return "", fmt.Errorf("%w: file: takes no host; write file:PATH or file:///PATH", ErrUnsupported)
		}
		rest = path
	}
	if rest == "" {
		return "", fmt.Errorf("%w: file: needs a path", ErrUnsupported)
	}
	return rest, nil
}

func s3Config(rawURL string, env func(string) string) (s3.Config, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// The error of url.Parse repeats the URL, in which somebody may have
		// written a secret.
		return s3.Config{}, errors.New("malformed")
	}
	if u.User != nil {
		return s3.Config{}, fmt.Errorf("keys do not belong in the URL but in %s and %s", AccessKeyVar, SecretKeyVar)
	}
	prefix := strings.Trim(u.Path, "/")
	if prefix != "" {
		if err := objstore.ValidKey(prefix); err != nil {
			return s3.Config{}, fmt.Errorf("prefix: %w", err)
		}
	}
	c := s3.Config{
		Bucket: u.Host, Prefix: prefix, Region: defaultRegion,
		AccessKey: env(AccessKeyVar), SecretKey: s3.Secret(env(SecretKeyVar)),
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return s3.Config{}, errors.New("malformed query")
	}
	for name, values := range query {
		if len(values) != 1 {
			return s3.Config{}, fmt.Errorf("parameter %q is given more than once", name)
		}
		switch name {
		case "endpoint":
			c.Endpoint = values[0]
		case "region":
			c.Region = values[0]
		default:
			return s3.Config{}, fmt.Errorf("unknown parameter %q; there are endpoint and region", name)
		}
	}
	if c.Endpoint == "" {
		c.Endpoint = "https://s3." + c.Region + ".amazonaws.com"
	}
	if c.AccessKey == "" || c.SecretKey == "" {
		return s3.Config{}, fmt.Errorf("%s and %s must both be set", AccessKeyVar, SecretKeyVar)
	}
	return c, nil
}
