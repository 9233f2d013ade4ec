package continuity

import (
	"encoding/binary"
	"slices"

	"holdfast/event"
)

// keptTombstones is how many of a mailbox's newest tombstones stand apart. The
// older ones become one, which lies at the newest step among them: who asks what
// has gone since an earlier step is told of more than he needs, which a client
// has to take (RFC 7162 §3.2.10: it disregards UIDs that it does not know).
const keptTombstones = 64

// bury keeps UIDs that were expunged in the mailbox's present step. When there
// are twice as many tombstones as shall stand apart, the older half becomes one.
// The caller stores the mailbox's row.
func (s *step) bury(a event.Account, id event.MailboxID, box *mailboxRow, gone []found) error {
	uids := make([]event.UID, 0, len(gone))
	for i := range gone {
		uids = append(uids, gone[i].uid)
	}
	s.tx.Set(tombstoneKey(a, id, box.ModSeq), appendUIDs(nil, uids))
	if box.Tombstones++; box.Tombstones < 2*keptTombstones {
		return nil
	}
	var runs []event.UIDRange
	var last []byte
	for it, err := range s.tx.Scan(tombstonePrefix(a, id), nil, false) {
		if err != nil {
			return err
		}
		if runs, err = parseRuns(runs, it.Value); err != nil {
			return err
		}
		if last != nil {
			s.tx.Delete(last)
		}
		last = slices.Clone(it.Key)
		if box.Tombstones--; box.Tombstones == keptTombstones {
			break
		}
	}
	box.Tombstones++ // the one that is left of those
	s.tx.Set(last, appendRuns(nil, mergeRuns(runs)))
	return nil
}

// appendUIDs encodes ascending UIDs.
func appendUIDs(b []byte, uids []event.UID) []byte {
	var runs []event.UIDRange
	for _, u := range uids {
		if n := len(runs); n > 0 && runs[n-1].Last+1 == u {
			runs[n-1].Last = u
			continue
		}
		runs = append(runs, event.UIDRange{First: u, Last: u})
	}
	return appendRuns(b, runs)
}

// appendRuns encodes runs of UIDs that ascend and do not touch: for each how far
// it begins behind the last one's end, and how long it is, both as varints.
func appendRuns(b []byte, runs []event.UIDRange) []byte {
	end := event.UID(0)
	for _, r := range runs {
		b = binary.AppendUvarint(b, uint64(r.First-end))
		b = binary.AppendUvarint(b, uint64(r.Last-r.First)+1)
		end = r.Last + 1
	}
	return b
}

// parseRuns undoes appendRuns and adds what it finds to runs.
func parseRuns(runs []event.UIDRange, b []byte) ([]event.UIDRange, error) {
	end := uint64(0)
	for len(b) > 0 {
		skip, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, event.ErrMalformed
		}
		long, m := binary.Uvarint(b[n:])
		if m <= 0 || long == 0 {
			return nil, event.ErrMalformed
		}
		b = b[n+m:]
		first := end + skip
		end = first + long
		runs = append(runs, event.UIDRange{First: event.UID(first), Last: event.UID(end - 1)})
	}
	return runs, nil
}

// mergeRuns sorts runs and joins those that touch.
func mergeRuns(runs []event.UIDRange) (out []event.UIDRange) {
	slices.SortFunc(runs, func(x, y event.UIDRange) int { return int(int64(x.First) - int64(y.First)) })
	for _, r := range runs {
		if n := len(out); n > 0 && uint64(r.First) <= uint64(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}
