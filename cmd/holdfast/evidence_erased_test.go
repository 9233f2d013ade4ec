package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"holdfast/event"
	"holdfast/eventlog"
)

// TestErasedCopies: the copies of a message that was kept are told as such, and
// not as messages.
func TestErasedCopies(t *testing.T) {
	kept, plain, first, second := event.NewID(), event.NewID(), event.NewID(), event.NewID()
	item := func(message, at event.ID) event.ErasedItem {
		return event.ErasedItem{Message: message, Place: event.Ref{ID: at}, Size: 7, Accounts: []event.Account{{1}}, Digests: [][32]byte{{2}}}
	}
	f := &event.Erased{Items: []event.ErasedItem{item(kept, first), item(plain, plain), item(kept, kept), item(kept, second)}}
	var out bytes.Buffer
	if err := tellErasure(&env{out: &out}, &eventlog.Evidence{Fact: f, Checkpoint: &eventlog.Checkpoint{}}, f); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for what, want := range map[string]int{
		`(?m)^erased +2 messages and 2 kept copies, `: 1,
		`(?m)^message `:                      2,
		`account`:                            2,
		`SHA-256`:                            4,
		`copy ` + first.String() + ` stood`:  1,
		`copy ` + second.String() + ` stood`: 1,
		`copy ` + kept.String():              0,
	} {
		if got := len(regexp.MustCompile(what).FindAllString(text, -1)); got != want {
			t.Errorf("%d times %q, want %d, in:\n%s", got, what, want, text)
		}
	}
	if i, j := strings.Index(text, second.String()), strings.Index(text, plain.String()); i > j {
		t.Errorf("a message is between the copies of another:\n%s", text)
	}
}
