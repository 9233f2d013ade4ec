package eventlog

import (
	"context"
	"fmt"
	"strings"

	"holdfast/event"
)

// Tenants returns all tenants that have keys in the bucket, in the order of their
// ids; [event.SystemTenant] is one.
func (l *Log) Tenants(ctx context.Context) (out []event.Tenant, err error) {
	for info, err := range l.bucket.List(ctx, tenantPrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list tenants: %w", err)
		}
		if t, err := event.ParseTenant(strings.TrimPrefix(info.Key, tenantPrefix)); err == nil {
			out = append(out, t)
		}
	}
	return out, nil
}
