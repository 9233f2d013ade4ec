package split_test

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"holdfast/objstore"
	"holdfast/objstore/mem"
	"holdfast/objstore/objstoretest"
	"holdfast/objstore/split"
)

func TestConformance(t *testing.T) {
	for _, prefix := range []string{"a", "k", "~"} { // some of the suite's keys, and none
		t.Run(prefix, func(t *testing.T) {
			objstoretest.Run(t, func(t *testing.T) objstore.Bucket {
				b := split.New(mem.New(), prefix, mem.New())
				return memory{b, b.(objstore.Clock)}
			})
		})
	}
}

// memory says of a bucket that it keeps its values in memory.
type memory struct {
	objstore.Bucket
	objstore.Clock
}

func (memory) InMemory() bool { return true }

func TestWhereThingsAre(t *testing.T) {
	ctx := context.Background()
	main, apart := mem.New(), mem.New()
	b := split.New(main, "key/", apart)
	put := func(b objstore.Bucket, key string) {
		t.Helper()
		if _, err := b.Put(ctx, key, bytes.NewReader(nil), 0, objstore.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	list := func(b objstore.Bucket, prefix, after string) (keys []string) {
		t.Helper()
		for info, err := range b.List(ctx, prefix, after) {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, info.Key)
		}
		return keys
	}
	put(main, "key/hidden")
	all := []string{"blob/x", "format", "key/1", "key/2/3", "keyhole", "log/1"}
	for _, key := range all {
		put(b, key)
	}
	for _, c := range []struct {
		prefix, after string
		want          []string
	}{
		{"", "", all}, {"", "format", all[2:]}, {"", "key/1", all[3:]}, {"", "key/2/3", all[4:]}, {"", "log/1", nil},
		{"k", "", all[2:5]}, {"key", "key/1", all[3:5]}, {"key/", "", all[2:4]}, {"key/2", "", all[3:4]}, {"l", "", all[5:]},
		{"key/x", "", nil}, {"key/", "key/1", all[3:4]},
	} {
		if got := list(b, c.prefix, c.after); !slices.Equal(got, c.want) {
			t.Errorf("list %q after %q: %v, want %v", c.prefix, c.after, got, c.want)
		}
	}
	if got := list(apart, "", ""); !slices.Equal(got, all[2:4]) {
		t.Errorf("apart: %v", got)
	}
	if err := b.Delete(ctx, "key/1"); err != nil || len(list(apart, "", "")) != 1 {
		t.Errorf("delete: %v", err)
	}
}
