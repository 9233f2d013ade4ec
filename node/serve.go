package node

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
)

// listen opens the listeners of a protocol and serves each.
func (r *run) listen(ctx context.Context, what string, addrs []string, serve func(context.Context, net.Listener) error) error {
	open := r.node.seams.Listen
	if open == nil {
		var lc net.ListenConfig
		open = lc.Listen
	}
	for _, addr := range addrs {
		l, err := open(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("listen for %s: %w", what, err)
		}
		r.listeners = append(r.listeners, l)
		r.node.logger.Info("listening", "for", what, "address", l.Addr().String())
		r.work.Go(func() { r.fail(serve(context.WithoutCancel(ctx), l)) })
	}
	return nil
}

// serveMail accepts mail from the network.
func (r *run) serveMail(ctx context.Context) error {
	n := r.node
	r.stops = append(r.stops, n.mx.Shutdown)
	return r.listen(ctx, "smtp", n.cfg.SMTP.Listen, n.mx.Serve)
}

// serveSubmission accepts mail from users.
func (r *run) serveSubmission(ctx context.Context) error {
	n := r.node
	r.stops = append(r.stops, n.submission.Shutdown)
	if err := r.listen(ctx, "submission", n.cfg.Submission.Listen, n.submission.Serve); err != nil {
		return err
	}
	return r.listen(ctx, "submissions", n.cfg.Submission.ListenTLS, func(ctx context.Context, l net.Listener) error {
		return n.submission.Serve(ctx, tls.NewListener(l, n.tls.config()))
	})
}

// serveMailboxes lets users read.
func (r *run) serveMailboxes(ctx context.Context) error {
	n := r.node
	r.stops = append(r.stops, n.imap.Shutdown)
	if err := r.listen(ctx, "imap", n.cfg.IMAP.Listen, n.imap.Serve); err != nil {
		return err
	}
	return r.listen(ctx, "imaps", n.cfg.IMAP.ListenTLS, n.imap.ServeTLS)
}
