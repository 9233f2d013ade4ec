package open

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/objstore"
	"holdfast/objstore/fs"
	"holdfast/objstore/s3"
	"holdfast/objstore/s3/versitygwtest"
)

func noEnv(string) string { return "" }

func keys(name string) string {
	return map[string]string{AccessKeyVar: "access", SecretKeyVar: "hush-hush"}[name]
}

func TestOpenFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for _, url := range []string{"file:" + dir, "file://" + dir} {
		b, closer, err := Open(t.Context(), url, noEnv)
		if err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		if _, _, err := Open(t.Context(), url, noEnv); !errors.Is(err, fs.ErrLocked) {
			t.Errorf("second Open: %v", err)
		}
		if _, err := b.Put(t.Context(), "k", strings.NewReader("x"), 1, objstore.PutOptions{}); err != nil {
			t.Error(err)
		}
		if err := closer.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "k")); err != nil {
		t.Error(err)
	}
}

func TestOpenMem(t *testing.T) {
	b, closer, err := Open(t.Context(), "mem:", noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if err := objstore.ProbeConditional(t.Context(), b); err != nil {
		t.Error(err)
	}
	if err := closer.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenS3(t *testing.T) {
	url, env := versitygwtest.Start(t)
	lookup := func(name string) string { return env[name] }
	b, closer, err := Open(t.Context(), url, lookup)
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	under, closer, err := Open(t.Context(), strings.Replace(url, "?", "/some/prefix/?", 1), lookup)
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	if _, err := under.Put(t.Context(), "k", strings.NewReader("x"), 1, objstore.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := objstore.ReadAll(t.Context(), b, "some/prefix/k", 1); err != nil {
		t.Error(err)
	}
}

func TestUnsupported(t *testing.T) {
	for _, url := range []string{"", "bucket", "/path", "gs://bucket", "nats://x", "file:", "file://host/path", "mem:x", "mem://"} {
		if _, _, err := Open(t.Context(), url, keys); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func TestS3Config(t *testing.T) {
	for _, c := range []struct {
		url  string
		want s3.Config // the zero value for an error
	}{
		{"s3://b?endpoint=http://127.0.0.1:9000", s3.Config{Bucket: "b", Endpoint: "http://127.0.0.1:9000", Region: "us-east-1"}},
		{"s3://b/p/q/?endpoint=http://h:1&region=eu-central-1", s3.Config{Bucket: "b", Prefix: "p/q", Endpoint: "http://h:1", Region: "eu-central-1"}},
		{"s3://b?region=eu-central-1", s3.Config{Bucket: "b", Endpoint: "https://s3.eu-central-1.amazonaws.com", Region: "eu-central-1"}},
		{"s3://b?endpiont=http://h:1", s3.Config{}},
		{"s3://b?region=a&region=b", s3.Config{}},
		{"s3://access:hush-hush@b?endpoint=http://h:1", s3.Config{}},
		{"s3://b/UPPER?endpoint=http://h:1", s3.Config{}},
		{"s3://b/../c?endpoint=http://h:1", s3.Config{}},
		{"s3://hush-hush:b\x7f", s3.Config{}},
	} {
		got, err := s3Config(c.url, keys)
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the error tells a secret", c.url)
		}
		if (err != nil) != (c.want == s3.Config{}) {
			t.Errorf("%s: error %v", c.url, err)
			continue
		}
		if err != nil {
			continue
		}
		c.want.AccessKey, c.want.SecretKey = "access", "hush-hush"
		if got != c.want {
			t.Errorf("%s: got %v", c.url, got)
		}
		if s := fmt.Sprintf("%v %+v %#v", got, got, got); strings.Contains(s, "hush") {
			t.Errorf("a printed Config tells the secret: %s", s)
		}
	}
	if _, err := s3Config("s3://b?endpoint=http://h:1", noEnv); err == nil {
		t.Error("missing keys are not noticed")
	}
}
