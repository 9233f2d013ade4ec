package node

import (
	"net/http"

	"holdfast/eventlog"
)

// handleVerify reads the whole log and tells what is damaged.
func (n *Node) handleVerify(w http.ResponseWriter, r *http.Request) {
	out := newLines(w)
	sum, err := n.log.Verify(r.Context(), func(f eventlog.Finding) {
		// What cannot be written is counted all the same, in the last line.
		_ = out.write(VerifyLine{Damage: f.String()})
		out.flush()
	})
	if err == nil {
		err = out.write(VerifyLine{
			Done: true, Segments: sum.Segments, Events: sum.Events, Bodies: sum.Bodies, Bytes: sum.Bytes,
			Orphans: sum.OrphanBlobs + sum.OrphanPages, Damaged: sum.Findings,
		})
	}
	out.end(err)
}
