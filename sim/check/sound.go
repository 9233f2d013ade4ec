package check

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"holdfast/crypto"
	"holdfast/eventlog"
	"holdfast/objstore"
	"holdfast/objstore/mem"
)

// Sound judges the log as the product's own verifier sees it, and the verifier:
// the bucket has no damage, and a copy of it in which two neighbouring segments
// were swapped has.
func Sound(ctx context.Context, bucket objstore.Bucket, keys crypto.KeyService, url string) ([]Finding, error) {
	c := &court{rule: "sound"}
	damage, err := verify(ctx, bucket, keys, url)
	if err != nil {
		return nil, err
	}
	for _, d := range damage {
		c.finds("%s", d)
	}
	a, b, swapped, err := swap(ctx, bucket)
	if err != nil || a == "" {
		return c.found, err
	}
	damage, err = verify(ctx, swapped, keys, url)
	if err != nil {
		return nil, err
	}
	if len(damage) == 0 {
		c.finds("%s and %s were swapped in a copy, and the verifier found nothing", a, b)
	}
	if _, err := ReadLog(ctx, swapped, keys, url, nil); err == nil {
		c.finds("%s and %s were swapped in a copy, and a reader read on", a, b)
	}
	return c.found, nil
}

func verify(ctx context.Context, bucket objstore.Bucket, keys crypto.KeyService, url string) ([]string, error) {
	l, err := eventlog.Open(ctx, eventlog.Options{Bucket: bucket, URL: url, Keys: keys, Inspect: true})
	if err != nil {
		return nil, fmt.Errorf("open the log to verify it: %w", err)
	}
	defer l.Close(ctx)
	var out []string
	_, err = l.Verify(ctx, func(f eventlog.Finding) { out = append(out, f.String()) })
	return out, err
}

// swap copies a bucket and exchanges two neighbouring segments in the middle of
// the longest partition. The keys are empty if no partition has three.
func swap(ctx context.Context, bucket objstore.Bucket) (a, b string, copied objstore.Bucket, err error) {
	objects := map[string][]byte{}
	var keys []string
	longest := map[string][]string{}
	for info, err := range bucket.List(ctx, "", "") {
		if err != nil {
			return "", "", nil, fmt.Errorf("copy the bucket: %w", err)
		}
		data, _, err := objstore.ReadAll(ctx, bucket, info.Key, 1<<30)
		if err != nil {
			return "", "", nil, fmt.Errorf("copy the bucket: %w", err)
		}
		objects[info.Key] = data
		keys = append(keys, info.Key)
		if dir, ok := strings.CutPrefix(info.Key, "log/"); ok {
			longest[dir[:2]] = append(longest[dir[:2]], info.Key)
		}
	}
	var segments []string
	for _, k := range keys {
		if strings.HasPrefix(k, "log/") && len(longest[k[4:6]]) > len(segments) {
			segments = longest[k[4:6]]
		}
	}
	if len(segments) < 3 {
		return "", "", nil, nil
	}
	mid := (len(segments) - 1) / 2
	a, b = segments[mid], segments[mid+1]
	objects[a], objects[b] = objects[b], objects[a]
	out := mem.New()
	for _, k := range keys {
		if _, err := out.Put(ctx, k, bytes.NewReader(objects[k]), int64(len(objects[k])), objstore.PutOptions{}); err != nil {
			return "", "", nil, fmt.Errorf("copy the bucket: %w", err)
		}
	}
	return a, b, out, nil
}
