package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/auth"
	"holdfast/delivery"
	"holdfast/directory"
	"holdfast/event"
	"holdfast/eventlog"
)

// maxRequest bounds a request's body: a domains file of 100,000 users.
const maxRequest = 64 << 20

// wrongError is about a request that is wrong in itself.
type wrongError struct{ text string }

func (e *wrongError) Error() string { return e.text }

func wrong(format string, args ...any) error { return &wrongError{fmt.Sprintf(format, args...)} }

func isWrong(err error) bool {
	_, ok := errors.AsType[*wrongError](err)
	return ok
}

// serveAdmin opens the admin socket: mode 0600, so that its owner and root are
// the administrators.
func (r *run) serveAdmin(ctx context.Context) error {
	n := r.node
	path := n.cfg.AdminSocket()
	if n.seams.Listen != nil {
		return nil // a simulation calls the handlers itself
	}
	// The bucket or the database is locked by now, so a socket that is there is
	// one that a crash left behind.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("admin socket: %w", err)
	}
	l, err := listenPrivate(ctx, path)
	if err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	srv := &http.Server{
		Handler: n.adminHandler(), ReadHeaderTimeout: 10 * time.Second,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, whoKey{}, peerName(c))
		},
	}
	r.stops = append(r.stops, srv.Shutdown)
	r.work.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			r.fail(err)
		}
	})
	return nil
}

// listenPrivate opens a socket that has mode 0600 from its first moment on: Linux
// makes the file with the mode of the socket. A umask would be the whole
// process's, whose other goroutines make directories meanwhile.
func listenPrivate(ctx context.Context, path string) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); cerr != nil {
			return cerr
		}
		return err
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(path)
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		err = fmt.Errorf("%s has mode %v: this system does not make sockets private", path, info.Mode().Perm())
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

type whoKey struct{}

// who names the administrator of a request.
func who(ctx context.Context) string {
	if s, ok := ctx.Value(whoKey{}).(string); ok {
		return s
	}
	return "unknown"
}

// peerName asks the kernel who is at the other end of the socket.
func peerName(c net.Conn) string {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return "unknown"
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return "unknown"
	}
	name := "unknown"
	_ = raw.Control(func(fd uintptr) { // the name stays unknown
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return
		}
		name = "uid " + strconv.Itoa(int(cred.Uid))
		if u, err := user.LookupId(strconv.Itoa(int(cred.Uid))); err == nil {
			name = u.Username
		}
	})
	return name
}

func (n *Node) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		answer(w, n.Status(r.Context()), nil)
	})
	mux.HandleFunc("POST /apply", handle(n.apply))
	mux.HandleFunc("POST /failover", handle(n.failover))
	mux.HandleFunc("POST /search", n.handleSearch)
	mux.HandleFunc("POST /redeliver", n.handleRedeliver)
	mux.HandleFunc("POST /export", n.handleExport)
	mux.HandleFunc("POST /hold/add", handle(n.addHold))
	mux.HandleFunc("POST /hold/list", handle(n.listHolds))
	mux.HandleFunc("POST /hold/release", handle(n.releaseHold))
	mux.HandleFunc("POST /erase", n.handleErase)
	mux.HandleFunc("POST /tenant/end", handle(n.endTenant))
	mux.HandleFunc("POST /retention/confirm-clock", handle(n.confirmClock))
	mux.HandleFunc("POST /retention/run", handle(n.runRetention))
	mux.HandleFunc("POST /verify", n.handleVerify)
	mux.HandleFunc("POST /prove", n.handleProve)
	mux.HandleFunc("POST /checkpoint", handle(n.checkpoint))
	mux.HandleFunc("POST /adopt", handle(n.adopt))
	mux.HandleFunc("POST /backed-up", handle(n.noteBackup))
	// Profiles show code, not mail; a heap dump is not offered.
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.Handle("GET /debug/pprof/allocs", pprof.Handler("allocs"))
	mux.Handle("GET /debug/pprof/goroutine", pprof.Handler("goroutine"))
	return mux
}

// handle turns a function of a request into a handler.
func handle[In, Out any](fn func(context.Context, In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in In
		if err := decode(w, r, &in); err != nil {
			answer(w, nil, err)
			return
		}
		out, err := fn(r.Context(), in)
		answer(w, out, err)
	}
}

func decode(w http.ResponseWriter, r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return wrong("the request cannot be read: %v", err)
	}
	return nil
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		code := http.StatusInternalServerError
		if isWrong(err) {
			code = http.StatusBadRequest
		}
		w.WriteHeader(code)
		v = Failure{Error: err.Error(), Wrong: isWrong(err)}
	}
	_ = json.NewEncoder(w).Encode(v) // a client that has gone needs no answer
}

// Version is the program's version.
const Version = "0.1.0"

// Status tells how the node stands.
func (n *Node) Status(ctx context.Context) Status {
	return n.status(ctx, n.delivery.Sheet, n.retentionStatus)
}

// status is Status with a balance sheet and accounts from somewhere.
func (n *Node) status(ctx context.Context, sheet func(context.Context) (*delivery.Sheet, error), kept func(context.Context) (*Retention, error)) Status {
	s := Status{
		Ready: n.ready.Load(), Version: Version, Since: n.started.UTC(), Warnings: []string{}, Domains: []DomainStatus{},
		Store: StoreStatus{URL: n.storeURL(), ReadOnly: n.log.ReadOnly(), BackedUp: n.backedUp()},
		Log:   LogStatus{ID: n.log.ID().String(), Partitions: n.log.Partitions()},
	}
	for p := range n.log.Partitions() {
		s.Log.Tails = append(s.Log.Tails, uint64(n.log.TailAtLeast(event.Partition(p))))
	}
	if warning := n.clockMoved(); warning != "" {
		s.Log.TestClock = n.cfg.Shift.String()
		s.Warnings = append(s.Warnings, warning)
	}
	if !s.Store.BackedUp {
		s.Warnings = append(s.Warnings, "the root key was never backed up: if it is lost, all mail is lost; run: holdfast keys backup FILE")
	}
	if err := n.log.Unguarded(); err != nil {
		s.Warnings = append(s.Warnings, "read-only: "+err.Error())
	} else if s.Store.ReadOnly {
		s.Warnings = append(s.Warnings, "read-only: this bucket is in service under another URL; if this copy is to take over, run: holdfast adopt")
	}
	if since, what := n.storeTrouble(); what != "" {
		s.Store.Trouble, s.Store.TroubleSince = what, &since
		s.Warnings = append(s.Warnings, "storage takes nothing since "+since.Format(time.RFC3339)+": "+what+"; senders hear 451 and try again")
	}
	if bad := n.log.BadPacks(); len(bad) > 0 {
		s.Log.BadPacks = len(bad)
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d damaged or forged packs are passed over, the first is %s: %v; run: holdfast log verify", len(bad), bad[0].Key, bad[0].Err))
	}
	for _, p := range n.runner.Status() {
		ps := ProjectionStatus{Name: p.Name, Version: p.Version, Lag: lag(p), Rebuilding: p.Rebuilding}
		if p.Stopped != nil {
			ps.Stopped, ps.StoppedAt = p.Stopped.Error(), p.StoppedAt.String()
			s.Warnings = append(s.Warnings, fmt.Sprintf("projection %s has stopped at %s: %v", p.Name, ps.StoppedAt, p.Stopped))
		}
		if p.Trouble != nil {
			ps.Trouble = p.Trouble.Error()
		}
		s.Projections = append(s.Projections, ps)
	}
	n.unpurged(&s)
	for _, d := range n.directory.Domains() {
		// A state that cannot be read is none to rely on.
		ds := DomainStatus{Name: d.Name, State: event.HealthSuspect.String(), Since: &n.started, Failover: string(d.Failover)}
		if st, err := n.delivery.Domain(ctx, d.Tenant, d.Name); err == nil {
			ds.State, ds.Queued, ds.Held, ds.Outbound = st.State.String(), st.Queued, st.Held, st.Out
			if !st.Since.IsZero() {
				ds.Since = &st.Since
			}
			ds.Open = directory.Admit(d.Continuity, d.Failover, st.State)
		}
		s.Domains = append(s.Domains, ds)
	}
	if b, err := balance(ctx, sheet); err == nil {
		s.Balance = b
		if !b.Balanced {
			s.Warnings = append(s.Warnings, b.imbalance())
		}
	}
	if r, err := kept(ctx); err == nil {
		s.Retention = r
		s.Warnings = append(s.Warnings, r.warnings...)
	}
	return s
}

// clockMoved warns of a clock that a test has moved.
func (n *Node) clockMoved() string {
	if n.cfg.Shift == 0 {
		return ""
	}
	return fmt.Sprintf("the test clock is on: by it, it is %v later than it is, and mail expires that much too early; unset %s if this is no test", n.cfg.Shift, testClock)
}

// unpurgedLong is from when on it is worth a warning that a purge is not done:
// that of a large database takes minutes.
const unpurgedLong = time.Hour

// unpurged says whether erased mail is still in the local database's files.
func (n *Node) unpurged(s *Status) {
	since, err := n.runner.Unpurged()
	if since.IsZero() {
		return
	}
	since = since.UTC()
	s.UnpurgedSince = &since
	if err == nil && n.log.Now().Sub(since) > unpurgedLong {
		err = errors.New("rewriting them takes long")
	}
	if err != nil {
		s.Warnings = append(s.Warnings, fmt.Sprintf("erased mail is still in this node's database files since %s: %v; to be rid of it at once, stop the node and delete its data_dir",
			since.Format(time.RFC3339), err))
	}
}

// backedUp reports whether a backup of the root key was made.
func (n *Node) backedUp() bool {
	if n.root != nil {
		return n.root.BackupMade()
	}
	return n.directory != nil && n.directory.Snapshot().BackedUp() != 0
}

// apply makes domains and users as a file says. It waits until this node knows.
func (n *Node) apply(ctx context.Context, req ApplyRequest) (ApplyAnswer, error) {
	out := ApplyAnswer{Changes: []string{}}
	if n.log.ReadOnly() {
		return out, eventlog.ErrReadOnly
	}
	planner := &directory.Planner{
		TenantID:  func(name string) (event.Tenant, error) { return n.keys.TenantID(ctx, name) },
		Hash:      auth.Hash,
		Matches:   func(hash, password string) bool { ok, err := auth.Verify(hash, password); return ok && err == nil },
		CheckHash: auth.CheckHash,
	}
	before := n.directory.Snapshot()
	changes, err := planner.Plan(before, req.File, req.Prune)
	if errors.Is(err, directory.ErrFile) {
		return out, wrong("%v", err)
	}
	if err != nil {
		return out, err
	}
	if err := n.refuseEnding(ctx, changes); err != nil {
		return out, err
	}
	for _, c := range changes {
		if err := n.ensureKeys(ctx, c.Tenant); err != nil {
			return out, err
		}
		said, err := n.command(ctx, c.Tenant, c.Fact)
		if err != nil {
			return out, err
		}
		if err := refusal(said); err != nil {
			return out, err
		}
		out.Changes = append(out.Changes, c.Text)
		// It is done; what it means is worth saying, and not worth failing for.
		more, err := n.consequence(ctx, before, c.Tenant, c.Fact)
		if err != nil {
			n.logger.Warn("what a change means could not be found out", "error", err)
		}
		out.Changes = append(out.Changes, more...)
	}
	n.prepareKeys(ctx)
	return out, nil
}

// refusal turns the directory's verdict into an error.
func refusal(said []any) error {
	for _, v := range said {
		switch v := v.(type) {
		case directory.Claimed:
			if !v.OK {
				return fmt.Errorf("domain %s belongs to another tenant already", v.Domain)
			}
		case directory.Stored:
			if !v.OK || len(v.Refused) > 0 {
				return errors.New("an address belongs to another user already; run apply again to see which")
			}
		}
	}
	return nil
}

// command appends a setting and waits until the directory has folded it.
func (n *Node) command(ctx context.Context, t event.Tenant, f event.Fact) ([]any, error) {
	ev := event.Event{ID: event.NewID(), Tenant: t, Fact: f}
	return n.runner.Do(ctx, directory.Name, ev.ID, func(ctx context.Context) (event.Position, error) {
		return n.log.Append(ctx, ev)
	})
}

// failover overrides the detector.
func (n *Node) failover(ctx context.Context, req FailoverRequest) (struct{}, error) {
	d, ok := n.directory.Domain(req.Domain)
	if !ok {
		return struct{}{}, wrong("there is no domain %q here; holdfast status lists them", req.Domain)
	}
	switch directory.Failover(req.Mode) {
	case directory.FailoverAuto, directory.FailoverOn, directory.FailoverOff:
	default:
		return struct{}{}, wrong("the mode is on, off or auto, not %q", req.Mode)
	}
	_, err := n.command(ctx, d.Tenant, &event.FailoverSet{At: n.log.Millis(), Domain: d.Name, Mode: req.Mode, Who: who(ctx)})
	return struct{}{}, err
}

// adopt takes a copied bucket into service.
func (n *Node) adopt(ctx context.Context, _ struct{}) (map[string]string, error) {
	from, err := eventlog.Adopt(ctx, n.logOptions())
	if err != nil {
		return nil, err
	}
	return map[string]string{"from": from, "to": n.storeURL()}, nil
}

// noteBackup records that the root key was backed up.
func (n *Node) noteBackup(ctx context.Context, _ struct{}) (struct{}, error) {
	_, err := n.command(ctx, event.SystemTenant, &event.KeysBackedUp{At: n.log.Millis()})
	return struct{}{}, err
}

// audit records that an administrator looks or acts, before it is done. On a
// read-only copy nothing can be recorded; the copy's own log says so.
func (n *Node) audit(ctx context.Context, act, detail string, count int) error {
	if n.log.ReadOnly() {
		n.logger.Warn("act on a read-only copy is not recorded in its log", "who", who(ctx), "act", act)
		return nil
	}
	_, err := n.log.Append(ctx, event.Event{ID: event.NewID(), Tenant: event.SystemTenant, Fact: &event.Audited{
		At: n.log.Millis(), Who: who(ctx), Act: act, Detail: detail, Count: uint64(count),
	}})
	if err != nil {
		return fmt.Errorf("it could not be put on record, so it was not done: %w", err)
	}
	return nil
}
