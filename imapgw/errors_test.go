package imapgw

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/emersion/go-imap/v2"

	"holdfast/continuity"
)

// A store that hangs ends reads by their deadlines. The client must hear that it
// is the server's trouble, and a FETCH of many messages must end with the first
// of them, not wait for each.
func TestStorageThatHangsIsUnavailable(t *testing.T) {
	for name, err := range map[string]error{
		"opening a message": fmt.Errorf("%w: %w", continuity.ErrUnavailable, context.DeadlineExceeded),
		"reading its bytes": fmt.Errorf("get: %w", context.DeadlineExceeded),
	} {
		f := &fetch{}
		for what, got := range map[string]error{"answer": answer(err, false), "FETCH": f.skip(err)} {
			own, ok := errors.AsType[*imap.Error](got)
			if !ok || own.Code != imap.ResponseCodeUnavailable {
				t.Errorf("%s, %s: %v, want NO [UNAVAILABLE]", name, what, got)
			}
		}
	}
	own, ok := errors.AsType[*imap.Error](answer(errTooLong, false))
	if !ok || own.Code != imap.ResponseCodeLimit {
		t.Errorf("a command out of time is answered %v, want NO [LIMIT]", own)
	}
}
