package imapgw

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"holdfast/continuity"
	"holdfast/event"
	"holdfast/message"
)

const (
	// searchPatience bounds one SEARCH.
	searchPatience = 10 * time.Minute
	// maxTexts bounds the strings that one SEARCH looks for in messages: each
	// is a pass over their text.
	maxTexts = 32
)

// Search implements SEARCH (RFC 9051 §6.4.4, RFC 4731, RFC 5182).
func (s *session) Search(kind imapserver.NumKind, criteria *imap.SearchCriteria, options *imap.SearchOptions) (*imap.SearchData, error) {
	unlock := s.lock()
	defer unlock()
	sel, err := s.begin()
	if err != nil {
		return nil, err
	}
	found, err := s.find(sel, criteria)
	if err != nil {
		if options.ReturnSave {
			s.saved = nil // RFC 5182 §2.1
		}
		return nil, err
	}
	data := searchData(sel.view, kind, found)
	if options.ReturnSave {
		s.saved = saveResult(sel.view, found, options)
	}
	return data, nil
}

// find returns the indexes of the messages that match, ascending.
func (s *session) find(sel *selection, criteria *imap.SearchCriteria) ([]int, error) {
	root, err := compile(sel.view, s.saved, criteria)
	if err != nil {
		return nil, err
	}
	if root.texts() > maxTexts {
		return nil, no(imap.ResponseCodeLimit, "Too many strings to look for")
	}
	ctx, cancel := context.WithTimeout(s.ctx, searchPatience)
	defer cancel()
	var found []int
	c := new(candidate)
	for i := range sel.view.told {
		if sel.view.isGone(i) {
			continue
		}
		*c = candidate{ctx: ctx, box: sel.box, i: i, m: &sel.view.msgs[i]}
		ok, err := c.matches(root)
		if errClose := c.close(); err == nil {
			err = errClose
		}
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = errTooLong
		}
		if err != nil {
			return nil, answer(err, false)
		}
		if ok {
			found = append(found, i)
		}
	}
	return found, nil
}

// searchData puts what was found into the library's form.
func searchData(v *view, kind imapserver.NumKind, found []int) *imap.SearchData {
	data := &imap.SearchData{Count: uint32(len(found))}
	if kind == imapserver.NumKindUID {
		uids := make([]event.UID, len(found))
		for k, i := range found {
			uids[k] = v.msgs[i].UID
		}
		data.All = uidSet(uids)
		if n := len(uids); n > 0 {
			data.Min, data.Max = uint32(uids[0]), uint32(uids[n-1])
		}
		return data
	}
	set := imap.SeqSet{}
	for _, i := range found {
		seq := uint32(i + 1)
		if n := len(set); n > 0 && set[n-1].Stop+1 == seq {
			set[n-1].Stop = seq
		} else {
			set = append(set, imap.SeqRange{Start: seq, Stop: seq})
		}
	}
	data.All = set
	if n := len(set); n > 0 {
		data.Min, data.Max = set[0].Start, set[n-1].Stop
	}
	return data
}

// saveResult is what "$" stands for after a SEARCH that saves. With MIN or MAX
// and neither ALL nor COUNT those are saved (RFC 5182 §2.4).
func saveResult(v *view, found []int, o *imap.SearchOptions) []event.UID {
	if n := len(found); n > 1 && (o.ReturnMin || o.ReturnMax) && !o.ReturnAll && !o.ReturnCount {
		var few []int
		if o.ReturnMin {
			few = append(few, found[0])
		}
		if o.ReturnMax {
			few = append(few, found[n-1])
		}
		found = few
	}
	uids := make([]event.UID, len(found))
	for k, i := range found {
		uids[k] = v.msgs[i].UID
	}
	return uids
}

// candidate is one message that SEARCH looks at. What it needs of the message is
// fetched when it is needed.
type candidate struct {
	ctx context.Context
	box Selected
	i   int
	m   *continuity.Message

	ix     *message.Index
	r      io.ReadSeekCloser
	header []byte
	// unreadable: the message is expunged or expired, so nothing is found in it.
	unreadable bool
}

func (c *candidate) close() error {
	if c.r == nil {
		return nil
	}
	return c.r.Close()
}

// matches evaluates the cheapest keys first, and stops as soon as the dearer
// ones cannot change the outcome.
func (c *candidate) matches(q *query) (bool, error) {
	for cost := costView; ; cost++ {
		if err := c.ctx.Err(); err != nil {
			return false, err
		}
		v, err := q.eval(c, cost)
		if err != nil {
			return false, err
		}
		if v != unknown {
			return v == yes, nil
		}
	}
}

// readable turns the error of a message that cannot be read any more into the
// absence of everything.
func (c *candidate) readable(err error) (bool, error) {
	if err == nil {
		return true, nil
	}
	if errors.Is(err, continuity.ErrNoMessage) || errors.Is(err, continuity.ErrExpired) {
		c.unreadable = true
		return false, nil
	}
	return false, err
}

// index returns the index of the message, or nil if it is unreadable.
func (c *candidate) index() (*message.Index, error) {
	if c.ix != nil || c.unreadable {
		return c.ix, nil
	}
	ix, err := c.box.Index(c.ctx, *c.m)
	if ok, err := c.readable(err); !ok {
		return nil, err
	}
	c.ix = ix
	return ix, nil
}

// bytes returns a reader of n bytes of the message from off, or nil if it is
// unreadable. It ends with the next call.
func (c *candidate) bytes(off, n int64) (io.Reader, error) {
	if c.unreadable {
		return nil, nil
	}
	if c.r == nil {
		r, err := c.box.Open(c.ctx, *c.m)
		if ok, err := c.readable(err); !ok {
			return nil, err
		}
		c.r = r
	}
	if _, err := c.r.Seek(off, io.SeekStart); err != nil {
		return nil, err
	}
	return io.LimitReader(c.r, n), nil
}

// headerBytes returns the header of the message.
func (c *candidate) headerBytes() ([]byte, error) {
	if c.header != nil {
		return c.header, nil
	}
	ix, err := c.index()
	if ix == nil {
		return nil, err
	}
	off, n := ix.HeaderRange()
	r, err := c.bytes(off, n)
	if r == nil {
		return nil, err
	}
	c.header, err = io.ReadAll(r)
	return c.header, err
}
