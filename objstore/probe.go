package objstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
)

// ProbeConditional verifies that the store honours IfAbsent and IfMatch, using
// one scratch key under "probe/" which it deletes again. It returns an error
// wrapping ErrUnconditional when the store does not, and any other error when
// it could not find out; then it may be called again.
func ProbeConditional(ctx context.Context, b Bucket) (err error) {
	key := "probe/" + strings.ToLower(rand.Text())
	defer func() {
		if derr := b.Delete(ctx, key); derr != nil && err == nil {
			err = fmt.Errorf("probe: delete scratch key: %w", derr)
		}
	}()
	put := func(value string, opt PutOptions) (Info, error) {
		return b.Put(ctx, key, strings.NewReader(value), int64(len(value)), opt)
	}

	first, err := put("one", PutOptions{IfAbsent: true})
	if err != nil {
		return fmt.Errorf("probe: create: %w", err)
	}
	if _, err := put("two", PutOptions{IfAbsent: true}); !errors.Is(err, ErrExists) {
		return probeFailure("create-only", err)
	}
	second, err := put("three", PutOptions{IfMatch: first.ETag})
	if err != nil {
		return fmt.Errorf("probe: compare-and-swap: %w", err)
	}
	if second.ETag == first.ETag {
		return fmt.Errorf("probe: %w: the ETag did not change", ErrUnconditional)
	}
	if _, err := put("four", PutOptions{IfMatch: first.ETag}); !errors.Is(err, ErrChanged) {
		return probeFailure("compare-and-swap", err)
	}
	got, _, err := ReadAll(ctx, b, key, 16)
	if err != nil {
		return fmt.Errorf("probe: read back: %w", err)
	}
	if string(got) != "three" {
		return fmt.Errorf("probe: %w: a refused write took effect", ErrUnconditional)
	}
	return nil
}

// probeFailure judges a Put whose condition was not met and that nevertheless
// did not say so.
func probeFailure(what string, err error) error {
	if err != nil {
		return fmt.Errorf("probe: %s: %w", what, err)
	}
	return fmt.Errorf("probe: %w: %s put overwrote", ErrUnconditional, what)
}
