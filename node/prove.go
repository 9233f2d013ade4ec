package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/retention"
)

// handleProve sends an evidence bundle of one message.
func (n *Node) handleProve(w http.ResponseWriter, r *http.Request) {
	var req ProveRequest
	err := decode(w, r, &req)
	out := &started{w: w}
	if err == nil {
		err = n.prove(r.Context(), req, out)
	}
	switch {
	case err == nil:
	case !out.began:
		answer(w, nil, err)
	default:
		n.logger.Error("a proof broke off", "event", req.ID, "error", err)
		panic(http.ErrAbortHandler) // the client must not take it for whole
	}
}

func (n *Node) prove(ctx context.Context, req ProveRequest, w io.Writer) error {
	ref, err := n.provable(ctx, req.ID)
	if err != nil {
		return err
	}
	if err := n.audit(ctx, "prove", req.ID, 1); err != nil {
		return err
	}
	_, err = n.log.Prove(ctx, ref, w)
	if errors.Is(err, crypto.ErrExpired) {
		return fmt.Errorf("the time of message %v is over: its bytes can be read no more", ref.ID)
	}
	if errors.Is(err, eventlog.ErrBeforeStart) {
		return fmt.Errorf("the log begins after %s, where %v stood: it can be proved no more", placeText(ref.Position), ref.ID)
	}
	return err
}

// provable finds what is to be proved: a message or an erasure by its id, or any
// event by its place.
func (n *Node) provable(ctx context.Context, text string) (event.Ref, error) {
	if strings.Contains(text, "/") {
		return n.placed(ctx, text)
	}
	if id, err := event.ParseID(strings.ToLower(text)); err == nil {
		ref, err := n.retention.Certificate(ctx, id)
		if !errors.Is(err, retention.ErrNotFound) {
			return ref, err
		}
	}
	row, err := n.message(ctx, text)
	return row.Ref, err
}

// started knows whether anything was written.
type started struct {
	w     http.ResponseWriter
	began bool
}

// Write implements io.Writer.
func (s *started) Write(p []byte) (int, error) {
	if !s.began {
		s.w.Header().Set("Content-Type", "application/x-tar")
		s.began = true
	}
	return s.w.Write(p)
}
