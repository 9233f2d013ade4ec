package node

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"holdfast/delivery"
	"holdfast/directory"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/shadow"
)

const (
	// receiptWait is how long redeliver waits for receipts.
	receiptWait = 25 * time.Second
	// defaultRows is what a search shows when nothing is said.
	defaultRows = shadow.DefaultLimit
	// maxRedeliver bounds one redelivery or export.
	maxRedeliver = 100_000
)

// query checks selectors and turns them into a query.
func (s Selectors) query(limit int) (shadow.Query, error) {
	q := shadow.Query{
		Rcpt: s.Rcpt, From: s.From, Subject: s.Subject, MessageID: s.MessageID, State: s.State,
		Since: s.Since, Until: s.Until, Limit: s.Limit,
	}
	if words := shadow.States(); s.State != "" && !slices.Contains(words, s.State) {
		return q, wrong("there is no state %q; it is one of %s", s.State, strings.Join(words, ", "))
	}
	if s.Limit < 0 || s.Limit > maxRedeliver {
		return q, wrong("the limit lies between 1 and %d", maxRedeliver)
	}
	if q.Limit == 0 {
		q.Limit = limit
	}
	if s.After != "" {
		id, err := event.ParseID(s.After)
		if err != nil {
			return q, wrong("--after takes the id of a message, as search prints it")
		}
		q.After = id
	}
	return q, nil
}

// detail says what was asked, for the record.
func (s Selectors) detail() string {
	b, err := json.Marshal(s)
	if err != nil {
		return ""
	}
	return string(b)
}

// each calls fn for every chosen message: those named by id, or those that
// match. fn only collects: nothing is done when each fails.
func (n *Node) each(ctx context.Context, s Selectors, limit int, fn func(shadow.Row) error) error {
	if len(s.IDs) > 0 {
		return n.eachID(ctx, s.IDs, fn)
	}
	q, err := s.query(limit)
	if err != nil {
		return err
	}
	for left := q.Limit; left > 0; { // a page at a time
		q.Limit = min(left, shadow.MaxLimit)
		found := 0
		for row, err := range n.shadow.Search(ctx, q) {
			if errors.Is(err, shadow.ErrNotFound) {
				return wrong("--after names no message; it takes the last id of the page before")
			}
			if err != nil {
				return err
			}
			if err := fn(row); err != nil {
				return err
			}
			found++
			q.After = row.ID
		}
		if found < q.Limit {
			return nil
		}
		left -= found
	}
	return nil
}

// eachID calls fn for every message named by id. Whoever names a message wants
// that one: when one does not exist, or not any more, the error names it.
func (n *Node) eachID(ctx context.Context, ids []string, fn func(shadow.Row) error) error {
	var unknown []string
	for _, text := range ids {
		id, err := event.ParseID(strings.ToLower(text))
		if err != nil {
			return wrong("%q is no message id; it has 32 hexadecimal digits, as search prints it", text)
		}
		row, err := n.shadow.Get(ctx, id)
		if errors.Is(err, shadow.ErrNotFound) {
			unknown = append(unknown, id.String())
			continue
		}
		if err != nil {
			return err
		}
		if err := fn(row); err != nil {
			return err
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	return &unknownError{ids: unknown, of: len(ids)}
}

// unknownError names messages that do not exist, or not any more.
type unknownError struct {
	ids []string
	of  int
}

func (e *unknownError) Error() string {
	const most = 20
	list := strings.Join(e.ids[:min(len(e.ids), most)], " ")
	if len(e.ids) > most {
		list += " and others"
	}
	return fmt.Sprintf("%d of the %d messages do not exist, or not any more; nothing was done: %s", len(e.ids), e.of, list)
}

// lines writes one JSON value a line; an error becomes the last line, because
// the status has been sent.
type lines struct {
	w       http.ResponseWriter
	enc     *json.Encoder
	started bool
}

func newLines(w http.ResponseWriter) *lines { return &lines{w: w, enc: json.NewEncoder(w)} }

func (l *lines) write(v any) error {
	if !l.started {
		l.w.Header().Set("Content-Type", "application/x-ndjson")
		l.started = true
	}
	return l.enc.Encode(v)
}

func (l *lines) end(err error) {
	switch {
	case err == nil:
	case !l.started:
		answer(l.w, nil, err)
	default:
		_ = l.enc.Encode(Failure{Error: err.Error(), Wrong: isWrong(err)})
	}
}

func (l *lines) flush() {
	if f, ok := l.w.(http.Flusher); ok {
		f.Flush()
	}
}

func (n *Node) handleSearch(w http.ResponseWriter, r *http.Request) {
	var s Selectors
	out := newLines(w)
	err := decode(w, r, &s)
	if err == nil {
		_, err = s.query(defaultRows)
	}
	if err == nil {
		err = n.audit(r.Context(), "search", s.detail(), 0)
	}
	if err == nil {
		err = n.each(r.Context(), s, defaultRows, func(row shadow.Row) error { return out.write(searchRow(row)) })
	}
	out.end(err)
}

func searchRow(r shadow.Row) Row {
	return Row{
		ID: r.ID.String(), Received: r.Received.UTC(), From: r.From, Rcpt: r.Rcpt, Subject: r.Subject, State: r.State, Size: r.Size,
	}
}

// item is one recipient of one chosen message.
type item struct {
	id         string
	rcpt       string
	tenant     event.Tenant
	expiry     event.Day
	redelivery event.Redelivery
}

// chosen collects the recipients that a redelivery is about. Selected by
// recipient or state, it is about those recipients only, not about everybody
// who got the message.
func (n *Node) chosen(ctx context.Context, req RedeliverRequest) (items []item, err error) {
	err = n.each(ctx, req.Selectors, maxRedeliver, func(row shadow.Row) error {
		if row.Appended() {
			return wrong("%v was put into a mailbox by its user and never sent, so that it cannot be delivered again; nothing was done: leave it out, or export it", row.ID)
		}
		once := false
		for i, rcpt := range row.Rcpt {
			if !row.Selected[i] {
				continue
			}
			if req.To != "" && once {
				break // one copy to the other address is enough
			}
			once = true
			items = append(items, item{
				id: row.ID.String(), rcpt: rcpt, tenant: row.Tenant, expiry: row.Expiry,
				redelivery: redeliveryOf(&row, i),
			})
		}
		return nil
	})
	return items, err
}

// redeliveryOf returns what an order says of a recipient of a message.
func redeliveryOf(row *shadow.Row, i int) event.Redelivery {
	r := event.Redelivery{
		Message: event.Ref{Position: row.Ref.Position, ID: row.ID}, N: uint32(i), Domain: row.Domain[i], Outside: row.Outside[i], Expiry: row.Expiry,
	}
	if row.Ref.ID != row.ID {
		r.Kept = row.Ref.ID
	}
	return r
}

// route sends items to another address: to the primary of its domain if the
// tenant has that, else through the smart host of the message's own domain.
func (n *Node) route(items []item, to string) error {
	local, domain, ok := directory.SplitAddress(to)
	if !ok {
		return wrong("%q is no mail address", to)
	}
	snap := n.directory.Snapshot()
	res, found := snap.Resolve(local, domain)
	for i := range items {
		it := &items[i].redelivery
		if found && res.Tenant == items[i].tenant {
			it.Domain, it.Outside = res.Domain, false
			continue
		}
		own, here := snap.Domain(it.Domain)
		if _, ours := snap.Domain(domain); ours && !found {
			return wrong("there is no recipient %q", to)
		}
		if !here || own.Tenant != items[i].tenant || own.Outbound == "" {
			return wrong("%q is not served here, and the domain %q has no outbound smart host", to, it.Domain)
		}
		it.Outside = true
	}
	return nil
}

func (n *Node) handleRedeliver(w http.ResponseWriter, r *http.Request) {
	out := newLines(w)
	out.end(n.redeliver(r.Context(), w, r, out))
}

func (n *Node) redeliver(ctx context.Context, w http.ResponseWriter, r *http.Request, out *lines) error {
	var req RedeliverRequest
	if err := decode(w, r, &req); err != nil {
		return err
	}
	if n.log.ReadOnly() {
		return eventlog.ErrReadOnly
	}
	items, err := n.chosen(ctx, req)
	// A message that matches nothing is no error; it is named, the others go.
	var unknown []string
	if missing, ok := errors.AsType[*unknownError](err); ok {
		unknown, err = missing.ids, nil
	}
	if err != nil {
		return err
	}
	if req.To != "" {
		if err := n.route(items, req.To); err != nil {
			return err
		}
	}
	for _, id := range unknown {
		if err := out.write(RedeliverLine{ID: id, Result: resultUnknown}); err != nil {
			return err
		}
	}
	if req.DryRun {
		if err := n.audit(ctx, "redeliver dry run", req.detail(), len(items)); err != nil {
			return err
		}
		for _, it := range items {
			if err := out.write(RedeliverLine{ID: it.id, Rcpt: it.target(req.To), Result: "would-deliver"}); err != nil {
				return err
			}
		}
		return nil
	}
	if err := n.audit(ctx, "redeliver", req.detail(), len(items)); err != nil {
		return err
	}
	deadline := time.Now().Add(receiptWait)
	for _, t := range tenantsOf(items) {
		if err := n.redeliverTenant(ctx, t, items, req.To, deadline, out); err != nil {
			return err
		}
	}
	return nil
}

func (it item) target(to string) string {
	if to != "" {
		return to
	}
	return it.rcpt
}

func tenantsOf(items []item) (out []event.Tenant) {
	seen := map[event.Tenant]bool{}
	for _, it := range items {
		if !seen[it.tenant] {
			seen[it.tenant] = true
			out = append(out, it.tenant)
		}
	}
	return out
}

func (n *Node) redeliverTenant(ctx context.Context, t event.Tenant, items []item, to string, deadline time.Time, out *lines) error {
	order := delivery.Order{Tenant: t, Who: who(ctx), To: to}
	var mine []item
	for _, it := range items {
		if it.tenant == t {
			mine = append(mine, it)
			order.Items = append(order.Items, it.redelivery)
			order.Until = max(order.Until, it.expiry)
		}
	}
	receipts, err := n.delivery.Redeliver(ctx, order, max(0, time.Until(deadline)))
	if err != nil {
		return err
	}
	for i, rc := range receipts {
		line := RedeliverLine{ID: mine[i].id, Rcpt: mine[i].target(to), Result: "queued"}
		if rc.Outcome != nil {
			line.Result, line.Code = resultWord(*rc.Outcome), int(rc.Outcome.Code)
		}
		if err := out.write(line); err != nil {
			return err
		}
	}
	return nil
}

func resultWord(o event.Outcome) string {
	switch o.Result {
	case event.ResultDelivered:
		if o.Uncertain {
			return "uncertain"
		}
		return "delivered"
	case event.ResultDeferred, event.ResultLost:
		return "queued"
	case event.ResultBounced:
		return "bounced"
	case event.ResultHeld:
		return "held"
	case event.ResultExpired:
		return "expired"
	}
	return "unknown"
}

// handleExport sends the chosen messages as a tar archive, byte for byte as
// their senders sent them.
func (n *Node) handleExport(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	var s Selectors
	err := decode(w, r, &s)
	var rows []shadow.Row
	if err == nil {
		err = n.each(ctx, s, maxRedeliver, func(row shadow.Row) error { rows = append(rows, row); return nil })
	}
	if err == nil {
		err = n.audit(ctx, "export", s.detail(), len(rows))
	}
	if err != nil {
		answer(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-tar")
	tw := tar.NewWriter(w)
	for _, row := range rows {
		if err := n.exportOne(ctx, tw, row); err != nil {
			n.logger.Error("export broke off", "event", row.ID, "error", err)
			panic(http.ErrAbortHandler) // the client must not take the archive for whole
		}
	}
	if err := tw.Close(); err != nil {
		n.logger.Warn("export", "error", err)
	}
}

func (n *Node) exportOne(ctx context.Context, tw *tar.Writer, row shadow.Row) error {
	body, err := n.log.Body(ctx, row.Ref)
	if err != nil {
		return err
	}
	defer body.Close()
	h := &tar.Header{Name: row.ID.String() + ".eml", Mode: 0o600, Size: row.Size, ModTime: row.Received}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	got, err := io.Copy(tw, body)
	if err == nil && got != row.Size {
		err = fmt.Errorf("%d bytes, want %d: %w", got, row.Size, eventlog.ErrDamaged)
	}
	return err
}
