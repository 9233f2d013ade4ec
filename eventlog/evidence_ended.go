package eventlog

import (
	"fmt"
	"time"

	"holdfast/event"
)

// endText is what stands in the certificate of the end of a tenant for a person to
// read, as in that of an erasure.
func (e *Evidence) endText(f *event.TenantEnded) string {
	at := func(t time.Time) string { return t.UTC().Format(checkpointTime) }
	return fmt.Sprintf(`Holdfast certificate of the end of a tenant, version 1

This archive shows that the log of a Holdfast installation says that the tenant
below has ended: its secrets were removed from where the log keeps its keys. Check
it with the public key of that installation, and with nothing else:

    holdfast log check FILE --key KEY

It holds nothing of the tenant but its name and id. docs/evidence.md of Holdfast
says what it proves, and what it does not.

log: %v
event: %v
partition: %d
segment: %d
index: %d
what: %s
tenant: %v
name: %q
ended: %s
by: %q
reason: %q
condemned: %v
removed by the last attempt: %d objects, %d bytes, %d locked
written: %s
checkpoint: %d
signed: %s
`, e.Log, e.Ref.ID, e.Ref.Position.Partition, e.Ref.Position.Seq, e.Ref.Position.Index, e.Kind(),
		f.Tenant, f.Name, at(e.Received()), f.Who, f.Reason, f.Order, f.Objects, f.Bytes, f.Locked,
		at(time.UnixMilli(int64(e.Written))), e.Checkpoint.Seq, at(e.Checkpoint.At()))
}
