package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/crypto/argon2"

	"holdfast/bench/loadgen"
	"holdfast/bench/peers"
	"holdfast/e2e/outside"
	"holdfast/objstore/s3/versitygwtest"
)

const (
	domain    = "acme.test"
	users     = 200
	sinkFlags = peers.SinkFlags
	// password opens every mailbox of the benchmark's domain.
	password = "benchmark only"
)

// bench is one run: what was asked for, and what rows share.
type bench struct {
	count, queue, archive, sessions int

	binary   string
	alone    bool   // no peers are measured
	profiles string // where processor profiles go; none when empty
	dir      string // all data of all servers, removed at the end
	selected []string

	pool     []loadgen.Message // see messages
	sinkRate float64           // see sinkAccepts
	postfix  float64           // see postfixAccepts
	filled   *archive          // see fixture
	runs     int
}

// close ends what rows share and removes all data.
func (b *bench) close() error {
	var err error
	if b.filled != nil {
		err = b.filled.node.Stop()
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// messages is the pool of mail-like messages, the same in every row.
func (b *bench) messages() []loadgen.Message {
	if b.pool == nil {
		b.pool = loadgen.Generate(loadgen.Spec{Seed: 1, Count: 1000, Domain: domain, Recipients: users})
	}
	return b.pool
}

// send sends n messages of the pool to addr.
func (b *bench) send(ctx context.Context, what, addr string, messages []loadgen.Message, n int) (loadgen.Result, error) {
	b.runs++
	r, err := loadgen.Run(ctx, loadgen.Load{Addr: addr, Messages: messages, Count: n, Sessions: b.sessions, Tag: fmt.Sprintf("run%d", b.runs)})
	b.say("  %s: %v", what, r)
	if err == nil && r.Accepted != n {
		err = fmt.Errorf("%s accepted %d of %d messages", what, r.Accepted, n)
	}
	return r, err
}

// subdir makes an empty directory for one server.
func (b *bench) subdir(name string) (string, error) {
	b.runs++
	dir := filepath.Join(b.dir, fmt.Sprintf("%s-%d", name, b.runs))
	return dir, os.Mkdir(dir, 0o755)
}

// site is a node with the benchmark's domain on it.
type site struct {
	*outside.Node
	gateway *versitygwtest.Server // nil on an fs bucket
}

// siteOptions say how a site differs from the usual.
type siteOptions struct {
	s3         bool
	primary    string // host:port; nobody listens there when empty
	continuity string
	// connections: as many SMTP connections at once are let in, from anywhere; 0
	// for the defaults.
	connections int
}

// newSite starts a node of its own and applies the domain.
func (b *bench) newSite(ctx context.Context, o siteOptions) (*site, error) {
	dir, err := b.subdir("holdfast")
	if err != nil {
		return nil, err
	}
	s := &site{}
	var opt outside.Options
	opt.LogLevel, opt.Connections = "info", o.connections
	if o.s3 {
		data, err := b.subdir("versitygw")
		if err != nil {
			return nil, err
		}
		if s.gateway, err = versitygwtest.Launch(ctx, data); err != nil {
			return nil, err
		}
		opt.Store = s.gateway.URL("holdfast", "")
		for _, key := range slices.Sorted(maps.Keys(s.gateway.Env())) {
			opt.Env = append(opt.Env, key+"="+s.gateway.Env()[key])
		}
	}
	if s.Node, err = outside.NewNode(b.binary, dir, opt); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	if _, err := s.Apply(ctx, b.domain(o)); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (b *bench) domain(o siteOptions) outside.Domain {
	d := outside.Domain{Name: domain, Primary: []string{o.primary}, Continuity: o.continuity}
	if o.primary == "" {
		d.Primary = []string{"127.0.0.1:1"} // Refuses connections: nobody serves tcpmux.
	}
	hash := passwordHash()
	for i := range users {
		d.Users = append(d.Users, outside.User{Address: loadgen.Recipient(i, domain), Hash: hash})
	}
	return d
}

// passwordHash is one hash for all users: two hundred would cost seconds and
// measure nothing.
func passwordHash() string {
	const memory, passes, threads = 19 << 10, 2, 1
	salt := []byte("benchmark's salt")
	key := argon2.IDKey([]byte(password), salt, passes, memory, threads, 32)
	enc := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, memory, passes, threads, enc.EncodeToString(salt), enc.EncodeToString(key))
}

// stop ends the node and its store. What they kept goes with everything else at
// the end of the run: ext4 without a journal searches past inodes that were freed
// within the last minutes whenever it makes a file, so that a row that cleaned up
// would slow down the next.
func (s *site) stop() error {
	var err error
	if s.Node != nil {
		err = s.Stop()
	}
	if s.gateway != nil {
		s.gateway.Kill()
	}
	return err
}

// wants says whether a row was asked for.
func (b *bench) wants(name string) bool {
	return slices.Contains(b.selected, name)
}
