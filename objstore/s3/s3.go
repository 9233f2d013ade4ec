// Package s3 keeps a bucket on an S3-compatible server.
//
// It promises what the server promises: a Put that returned without error was
// confirmed by the server. It asks the server for conditional PUT (If-None-Match
// and If-Match); objstore.ProbeConditional finds out whether it honours them.
//
// Nothing is retried here. A repeated PUT whose first answer was lost would be
// told "exists" and look like a lost race, so the only one who can repeat it is
// the caller, who knows its own bytes. Errors say which it was: see Put.
//
// Every Put is one request, however large, and every request is signed
// together with the SHA-256 of its body, so the server refuses a body damaged
// on the way. Bodies are read twice for that, and never held in memory.
//
// Every wait has a limit: connecting, TLS, the server's silence before an
// answer, a transfer without progress. The deadline of a whole call is its
// context's.
package s3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Config says where the bucket is. Bucket, Endpoint and the keys are required.
type Config struct {
	Endpoint  string // http://HOST:PORT or https://HOST[:PORT]
	Region    string // us-east-1 if empty
	Bucket    string
	Prefix    string // put before every key; without slashes at its ends
	AccessKey string
	SecretKey Secret
}

// Secret is a string that does not show itself when it is printed or logged.
type Secret string

// String implements fmt.Stringer.
func (Secret) String() string { return "[redacted]" }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return "[redacted]" }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// limits are the waits of a bucket; tests shorten them.
type limits struct {
	connect time.Duration // TCP
	tls     time.Duration
	silence time.Duration // from the request's last byte to the answer's first
	stall   time.Duration // without any progress of a transfer
}

func defaultLimits() limits {
	return limits{connect: 5 * time.Second, tls: 10 * time.Second, silence: 30 * time.Second, stall: 30 * time.Second}
}

const (
	// maxConns bounds the connections to the server. More requests than this
	// wait for one to end, or for their contexts.
	maxConns = 256
	// maxIdle connections are kept for the next burst.
	maxIdle  = 64
	idleTime = 90 * time.Second
)

// Bucket implements objstore.Bucket and objstore.Clock. Use Open.
type Bucket struct {
	core      *minio.Core
	transport *http.Transport
	name      string
	prefix    string // empty, or ends in a slash
}

// Open connects to the server and makes sure that the bucket exists. A missing
// bucket is created if the server permits; nothing else is written. Where the
// keys may not ask whether the bucket exists, it is taken to. Close the Bucket
// when every call has returned.
func Open(ctx context.Context, c Config) (*Bucket, error) {
	b, err := newBucket(c, defaultLimits())
	if err != nil {
		return nil, fmt.Errorf("open s3 bucket: %w", err)
	}
	if err := b.ensureBucket(ctx, c.Region); err != nil {
		b.Close()
		return nil, fmt.Errorf("open s3 bucket: %w", err)
	}
	return b, nil
}

func newBucket(c Config, l limits) (*Bucket, error) {
	endpoint, err := url.Parse(c.Endpoint)
	if err != nil || endpoint.Host == "" || endpoint.Scheme != "http" && endpoint.Scheme != "https" {
		return nil, errors.New("endpoint must be http://HOST:PORT or https://HOST[:PORT]")
	}
	if endpoint.Path != "" && endpoint.Path != "/" {
		return nil, errors.New("endpoint must not have a path")
	}
	if c.Bucket == "" {
		return nil, errors.New("no bucket is named")
	}
	if c.AccessKey == "" || c.SecretKey == "" {
		return nil, errors.New("access key and secret key are required")
	}
	region := c.Region
	if region == "" {
		region = "us-east-1"
	}
	transport := newTransport(l)
	core, err := minio.NewCore(endpoint.Host, &minio.Options{
		Creds:     credentials.NewStaticV4(c.AccessKey, string(c.SecretKey), ""),
		Secure:    endpoint.Scheme == "https",
		Region:    region, // Named, so that the client never asks the server for it.
		Transport: &observer{next: transport, stall: l.stall},
		// One attempt: its own retries would hide what became of the first.
		MaxRetries: 1,
	})
	if err != nil {
		return nil, err
	}
	prefix := strings.Trim(c.Prefix, "/")
	if prefix != "" {
		prefix += "/"
	}
	return &Bucket{core: core, transport: transport, name: c.Bucket, prefix: prefix}, nil
}

func newTransport(l limits) *http.Transport {
	dialer := &net.Dialer{Timeout: l.connect, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &stallConn{Conn: c, stall: l.stall}, nil
		},
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   l.tls,
		ResponseHeaderTimeout: l.silence,
		MaxConnsPerHost:       maxConns,
		MaxIdleConns:          maxIdle,
		MaxIdleConnsPerHost:   maxIdle,
		IdleConnTimeout:       idleTime,
		DisableCompression:    true, // What is stored is what is read, by length too.
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
	}
}

func (b *Bucket) ensureBucket(ctx context.Context, region string) error {
	exists, err := b.core.BucketExists(ctx, b.name)
	if err != nil {
		if statusOf(err) == http.StatusForbidden {
			return nil
		}
		return fmt.Errorf("look for the bucket: %w", away(err))
	}
	if exists {
		return nil
	}
	err = b.core.MakeBucket(ctx, b.name, minio.MakeBucketOptions{Region: region})
	switch minio.ToErrorResponse(err).Code {
	case minio.BucketAlreadyExists, minio.BucketAlreadyOwnedByYou:
		return nil // Another node was faster.
	}
	if err != nil {
		return fmt.Errorf("the bucket does not exist and cannot be created: %w", away(err))
	}
	return nil
}

// Close drops idle connections. It may be called again.
func (b *Bucket) Close() error {
	b.transport.CloseIdleConnections()
	return nil
}
