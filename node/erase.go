package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"holdfast/directory"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/retention"
	"holdfast/shadow"
)

// maxErase bounds the messages of one request. Their rows are held in memory.
const maxErase = 1_000_000

// handleErase erases messages for ever.
func (n *Node) handleErase(w http.ResponseWriter, r *http.Request) {
	out := newLines(w)
	var req EraseRequest
	err := decode(w, r, &req)
	if err == nil {
		err = n.erase(r.Context(), req, out)
	}
	out.end(err)
}

func (n *Node) erase(ctx context.Context, req EraseRequest, out *lines) error {
	if n.log.ReadOnly() {
		return eventlog.ErrReadOnly
	}
	if err := checkReason(req.Reason); err != nil {
		return err
	}
	switch {
	case req.Scope.empty():
		return wrong("say which messages: ids, selectors, --user ADDRESS, or --tenant NAME for all of a tenant's mail")
	case req.Limit != 0 || req.After != "":
		return wrong("an erasure is of all that matches: --limit and --after mean nothing to it")
	}
	t, err := n.tenantOf(ctx, req.Scope)
	if err != nil {
		return err
	}
	doomed, err := n.doomed(ctx, t, req.Scope)
	if err != nil {
		return err
	}
	doomed.limit(req.Only)
	act := "erase"
	if req.DryRun {
		act = "erase dry run"
	}
	if err := n.audit(ctx, act, req.record(), len(doomed.rows)); err != nil {
		return err
	}
	done := EraseLine{Done: true, Tenant: n.tenantName(t), Messages: len(doomed.rows), Shared: doomed.shared}
	if req.DryRun {
		return n.eraseDryRun(ctx, t, doomed, done, out)
	}
	if len(doomed.rows) > retention.MaxItems {
		// Each order is refused or carried out as a whole; all of them together
		// should be, too.
		if done.Held, err = n.heldOf(ctx, t, doomed); err != nil {
			return err
		}
		if len(done.Held) > 0 {
			return heldError(done.Held)
		}
	}
	for chunk := range slices.Chunk(doomed.rows, retention.MaxItems) {
		refs := make([]event.Ref, len(chunk))
		for i := range chunk {
			refs[i] = chunk[i].Ref
		}
		ref, err := n.retention.Erase(ctx, t, who(ctx), req.Reason, refs)
		if err != nil {
			return eraseTrouble(err)
		}
		if err := out.write(EraseLine{Certificate: ref.ID.String(), Place: placeText(ref.Position), Messages: len(chunk)}); err != nil {
			return err
		}
		out.flush()
	}
	return out.write(done)
}

// record says what was asked, for the audit, which outlives the mail: not by
// which words of the mail it was found.
func (r EraseRequest) record() string {
	s := r.Selectors
	for _, of := range []*string{&s.Rcpt, &s.From, &s.Subject, &s.MessageID} {
		if *of != "" {
			*of = "(not recorded)"
		}
	}
	return fmt.Sprintf("tenant %q domain %q user %q %s because %q", r.Tenant, r.Domain, r.User, s.detail(), r.Reason)
}

// eraseTrouble says what an administrator can do about a refusal.
func eraseTrouble(err error) error {
	if errors.Is(err, retention.ErrHeld) {
		return fmt.Errorf("refused, nothing of it was erased: %w; see holdfast hold list, and release what need not be held any more", err)
	}
	return err
}

func heldError(names []string) error {
	return eraseTrouble(fmt.Errorf("by hold %s: %w", strings.Join(names, ", "), retention.ErrHeld))
}

// doomed is what an erasure is of.
type doomed struct {
	rows   []shadow.Row
	shared int // that others than the user got, too
}

// doomed finds what an erasure is of, without limit.
func (n *Node) doomed(ctx context.Context, t event.Tenant, s Scope) (d doomed, err error) {
	m, err := n.match(s)
	if err != nil {
		return d, err
	}
	if s.State != "" {
		if _, err := s.query(1); err != nil {
			return d, err
		}
	}
	for row, err := range n.shadow.Under(ctx, t, m, 0) {
		if err != nil {
			return d, err
		}
		if s.State != "" && !slices.Contains(row.State, s.State) {
			continue
		}
		if len(d.rows) == maxErase {
			return d, wrong("more than %d messages match; erase them a part at a time, by --since and --until", maxErase)
		}
		d.rows = append(d.rows, row)
		if s.User != "" && n.othersGot(row, m.Users) {
			d.shared++
		}
	}
	if len(s.IDs) > 0 && len(d.rows) < len(s.IDs) {
		return d, n.notDoomed(s.IDs, d.rows)
	}
	return d, nil
}

// limit leaves only the messages with these ids, where there are any.
func (d *doomed) limit(only []string) {
	if only == nil {
		return
	}
	named := make(map[string]bool, len(only))
	for _, id := range only {
		named[id] = true
	}
	d.rows = slices.DeleteFunc(d.rows, func(r shadow.Row) bool { return !named[r.ID.String()] })
	d.shared = 0 // it was told before
}

// notDoomed names what was named by id and is not there.
func (n *Node) notDoomed(ids []string, rows []shadow.Row) error {
	there := make(map[string]bool, len(rows))
	for _, row := range rows {
		there[row.ID.String()] = true
	}
	var unknown []string
	for _, id := range ids {
		if !there[strings.ToLower(id)] {
			unknown = append(unknown, id)
		}
	}
	if len(unknown) == 0 {
		return nil // some were named twice
	}
	return &unknownError{ids: unknown, of: len(ids)}
}

// othersGot reports whether a message went to a listed user who has none of the
// addresses.
func (n *Node) othersGot(row shadow.Row, addresses []string) bool {
	snap := n.directory.Snapshot()
	for _, rcpt := range row.Rcpt {
		if slices.ContainsFunc(addresses, func(a string) bool { return strings.EqualFold(a, rcpt) }) {
			continue
		}
		if local, domain, ok := directory.SplitAddress(rcpt); ok {
			if r, ok := snap.Resolve(local, domain); ok && r.Listed {
				return true
			}
		}
	}
	return false
}

// heldOf names the holds that select one of the messages.
func (n *Node) heldOf(ctx context.Context, t event.Tenant, d doomed) (names []string, err error) {
	holds, err := n.retention.Holds(ctx)
	if err != nil {
		return nil, err
	}
	mine := make(map[event.ID]bool, len(d.rows))
	for _, row := range d.rows {
		mine[row.ID] = true
	}
	for _, h := range holds {
		if h.Tenant != t {
			continue
		}
		for row, err := range n.shadow.Under(ctx, t, h.Placed.Match, 0) {
			if err != nil {
				return nil, err
			}
			if mine[row.ID] && row.Expiry > h.After {
				names = append(names, h.Placed.Name)
				break
			}
		}
	}
	return names, nil
}

func (n *Node) eraseDryRun(ctx context.Context, t event.Tenant, d doomed, done EraseLine, out *lines) (err error) {
	if done.Held, err = n.heldOf(ctx, t, d); err != nil {
		return err
	}
	for i := range d.rows {
		row := searchRow(d.rows[i])
		if err := out.write(EraseLine{Message: &row}); err != nil {
			return err
		}
	}
	return out.write(done)
}

// placeText writes the place of an event as /prove takes it.
func placeText(p event.Position) string {
	return fmt.Sprintf("%d/%d/%d", p.Partition, p.Seq, p.Index)
}

// placed finds an event by its place, as placeText writes it.
func (n *Node) placed(ctx context.Context, text string) (event.Ref, error) {
	parts := strings.Split(text, "/")
	var at [3]uint64
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 63)
		if err != nil || len(parts) != 3 {
			return event.Ref{}, wrong("%q is no place in the log; write PARTITION/SEGMENT/INDEX", text)
		}
		at[i] = v
	}
	if at[0] >= uint64(n.log.Partitions()) || at[1] == 0 || at[1] > uint64(n.log.TailAtLeast(event.Partition(at[0]))) {
		return event.Ref{}, wrong("there is no event at %s", text)
	}
	seg, err := n.log.Segment(ctx, event.Partition(at[0]), event.Seq(at[1]))
	if err != nil {
		return event.Ref{}, err
	}
	rec, ok := seg.At(uint32(min(at[2], math.MaxUint32)))
	if !ok {
		return event.Ref{}, wrong("there is no event at %s, or its tenant has ended", text)
	}
	return rec.Ref, nil
}
