package node

import (
	"context"
	"fmt"
	"io"
	"os"

	"holdfast/objstore"
	"holdfast/objstore/open"
	"holdfast/objstore/split"
)

// keyPrefix is where the keys are in a bucket (docs/format.md).
const keyPrefix = "key/"

// openStores opens the bucket of a configuration, and the one with the keys if
// that is apart, which is probed if it is to be written to.
func openStores(ctx context.Context, cfg StoreConfig, write bool) (objstore.Bucket, []io.Closer, error) {
	b, closer, err := open.Open(ctx, cfg.URL, os.Getenv)
	if err != nil {
		return nil, nil, fmt.Errorf("open store.url: %w", err)
	}
	if cfg.KeysURL == "" {
		return b, []io.Closer{closer}, nil
	}
	keys, other, err := open.Open(ctx, cfg.KeysURL, os.Getenv)
	if err != nil {
		closer.Close()
		return nil, nil, fmt.Errorf("open store.keys_url: %w", err)
	}
	if write {
		if err := objstore.ProbeConditional(ctx, keys); err != nil {
			closer.Close()
			other.Close()
			return nil, nil, fmt.Errorf("check store.keys_url: %w", err)
		}
	}
	return split.New(b, keyPrefix, keys), []io.Closer{closer, other}, nil
}

// warnOfHistory warns where earlier versions of rewritten key pages remain: what
// is erased could be read with those.
func (n *Node) warnOfHistory(ctx context.Context) {
	h, ok := n.bucket.(objstore.Historian)
	if !ok {
		return
	}
	const advice = "set store.keys_url to a bucket without versioning and Object Lock and move what is under key/ there"
	switch kept, err := h.History(ctx); {
	case err != nil:
		n.logger.Warn("cannot tell whether the store keeps earlier versions of the keys; erased messages could be read with those", "error", err)
	case kept.Locked:
		n.logger.Warn("the bucket that holds the keys is under Object Lock: erased messages can be read with the locked versions", "advice", advice)
	case kept.Versioned:
		n.logger.Warn("the bucket that holds the keys is versioned: erased messages can be read with earlier versions", "advice", advice)
	}
}
