// Package node assembles a process: from a configuration and the seams to the
// world it makes the log, the folds, the domain services and the protocols, and
// starts and stops them in order.
package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Config is the configuration file. Every key has a default.
type Config struct {
	DataDir    string         `toml:"data_dir"`
	Hostname   string         `toml:"hostname"`
	Roles      []string       `toml:"roles"`
	Store      StoreConfig    `toml:"store"`
	Keys       KeysConfig     `toml:"keys"`
	Bus        BusConfig      `toml:"bus"`
	TLS        TLSConfig      `toml:"tls"`
	SMTP       SMTPConfig     `toml:"smtp"`
	Submission ListenConfig   `toml:"submission"`
	IMAP       ListenConfig   `toml:"imap"`
	Web        WebConfig      `toml:"web"`
	Delivery   DeliveryConfig `toml:"delivery"`
	Log        LogConfig      `toml:"log"`
	// TestClock allows HOLDFAST_TEST_CLOCK to move the clock.
	TestClock bool `toml:"test_clock"`
	// Shift is by how much it does; see [testClock].
	Shift time.Duration `toml:"-"`
}

// StoreConfig says where the bucket is.
type StoreConfig struct {
	URL        string `toml:"url"`        // file:PATH or s3://BUCKET/PREFIX?endpoint=URL&region=NAME
	KeysURL    string `toml:"keys_url"`   // likewise: a bucket of its own for what is under key/; empty for none
	Partitions int    `toml:"partitions"` // of a new log
}

// KeysConfig says where the root key is.
type KeysConfig struct {
	URL string `toml:"url"` // file:PATH
}

// BusConfig says how nodes wake each other.
type BusConfig struct {
	URL string `toml:"url"` // local:
}

// TLSConfig names certificate and key, in PEM. Without them a self-signed
// certificate is made at each start.
type TLSConfig struct {
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
}

// SMTPConfig is for mail from the network.
type SMTPConfig struct {
	Listen         []string `toml:"listen"`
	MaxMessageSize Size     `toml:"max_message_size"`
	MaxConnections int      `toml:"max_connections"`
	PerAddress     int      `toml:"max_connections_per_address"`
	MaxRecipients  int      `toml:"max_recipients"`
	AllowSources   []string `toml:"allow_sources"` // CIDR ranges; none means everybody
}

// ListenConfig is for a protocol that users log in to.
type ListenConfig struct {
	Listen             []string `toml:"listen"`
	ListenTLS          []string `toml:"listen_tls"` // TLS from the first byte
	AllowPlaintextAuth bool     `toml:"allow_plaintext_auth"`
	PerAddress         int      `toml:"max_connections_per_address"`
}

// WebConfig is for the status page, metrics and health checks.
type WebConfig struct {
	Listen string `toml:"listen"`
}

// DeliveryConfig is for deliveries.
type DeliveryConfig struct {
	DotTimeout string `toml:"dot_timeout"` // of domains that set none
}

// LogConfig is for what the process says of itself.
type LogConfig struct {
	Level  string `toml:"level"`  // debug, info, warn, error
	Format string `toml:"format"` // text, json
}

// The roles of a node.
const (
	RoleSMTP    = "smtp"
	RoleDeliver = "deliver"
	RoleIMAP    = "imap"
	RoleWeb     = "web"
)

// DefaultConfig is the embedded default: one process does everything, with
// files in the working directory.
func DefaultConfig() Config {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	return Config{
		DataDir: "./data", Hostname: host, Roles: []string{RoleSMTP, RoleDeliver, RoleIMAP, RoleWeb},
		Store:      StoreConfig{URL: "file:./bucket"},
		Keys:       KeysConfig{URL: "file:./root.key"},
		Bus:        BusConfig{URL: "local:"},
		SMTP:       SMTPConfig{Listen: []string{"127.0.0.1:2525"}, MaxMessageSize: 64 << 20},
		Submission: ListenConfig{Listen: []string{"127.0.0.1:2587"}},
		IMAP:       ListenConfig{Listen: []string{"127.0.0.1:2143"}},
		Web:        WebConfig{Listen: "127.0.0.1:2080"},
		Log:        LogConfig{Level: "info", Format: "text"},
	}
}

// ErrConfig is wrapped by every error about a configuration.
var ErrConfig = errors.New("configuration")

// LoadConfig reads a file; an empty path gives the default. Unknown keys are an
// error.
func LoadConfig(path string) (Config, error) {
	c := DefaultConfig()
	if path == "" {
		if err := c.check(); err != nil {
			return c, err
		}
		return c, c.moveClock(os.Getenv(testClock))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := c.parse(string(text)); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	if err := c.moveClock(os.Getenv(testClock)); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// testClock is the variable in the environment that moves the clock by which
// retention and reception count, as +49h: for tests of what happens in two days.
// Mail expires by it, so it takes a key in the configuration too, and the node
// says at its start and in its status that it is on.
const testClock = "HOLDFAST_TEST_CLOCK"

// maxShift is more than the longest retention.
const maxShift = 20 * 365 * 24 * time.Hour

func (c *Config) moveClock(by string) error {
	if by == "" {
		return nil
	}
	if !c.TestClock {
		return fmt.Errorf("%w: %s is set: it makes mail expire early and is for tests alone; unset it, or put test_clock = true at the top of the configuration of a test", ErrConfig, testClock)
	}
	d, err := time.ParseDuration(by)
	if err != nil || d <= 0 || d > maxShift {
		return fmt.Errorf("%w: %s moves the clock ahead, as +49h; %q does not", ErrConfig, testClock, by)
	}
	c.Shift = d
	return nil
}

// parse reads a file's text over what c holds, and checks the whole.
func (c *Config) parse(text string) error {
	md, err := toml.Decode(text, c)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if unknown := md.Undecoded(); len(unknown) > 0 {
		return fmt.Errorf("%w: unknown key %s; remove it or check its spelling", ErrConfig, unknown[0])
	}
	return c.check()
}

func (c *Config) check() error {
	bad := func(key, want string) error { return fmt.Errorf("%w: %s: %s", ErrConfig, key, want) }
	for _, r := range c.Roles {
		if !slices.Contains([]string{RoleSMTP, RoleDeliver, RoleIMAP, RoleWeb}, r) {
			return bad("roles", fmt.Sprintf("%q is none of smtp, deliver, imap, web", r))
		}
	}
	if c.DataDir == "" {
		return bad("data_dir", "must name a directory")
	}
	if c.Hostname == "" || strings.ContainsAny(c.Hostname, " \t\r\n<>") {
		return bad("hostname", "must be this host's name in mail, such as mx.example.org")
	}
	if c.Store.KeysURL == c.Store.URL {
		return bad("store.keys_url", "is another bucket than store.url, or left out")
	}
	if !strings.HasPrefix(c.Keys.URL, "file:") {
		return bad("keys.url", "only file:PATH is supported; vault: and cloud key services are not yet")
	}
	if c.Bus.URL != "local:" {
		return bad("bus.url", "only local: is supported; nats:// is not yet (nodes still share a bucket, they look for each other's segments every second)")
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		return bad("tls", "cert and key are given together, or neither")
	}
	if c.SMTP.MaxMessageSize < 64<<10 || c.SMTP.MaxMessageSize > 1<<30 {
		return bad("smtp.max_message_size", "must lie between 64KiB and 1GiB")
	}
	for _, l := range c.listeners() {
		if _, _, err := net.SplitHostPort(l.addr); err != nil {
			return bad(l.key, fmt.Sprintf("%q is not HOST:PORT", l.addr))
		}
	}
	for _, s := range c.SMTP.AllowSources {
		if _, err := netip.ParsePrefix(s); err != nil {
			return bad("smtp.allow_sources", fmt.Sprintf("%q is not an address range such as 192.0.2.0/24", s))
		}
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		return bad("log.level", "is one of debug, info, warn, error")
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		return bad("log.format", "is text or json")
	}
	if c.Delivery.DotTimeout != "" {
		if d, err := time.ParseDuration(c.Delivery.DotTimeout); err != nil || d < time.Second {
			return bad("delivery.dot_timeout", "is a duration of at least 1s, such as 60s")
		}
	}
	return nil
}

type listenAddr struct{ key, addr string }

func (c *Config) listeners() (out []listenAddr) {
	for _, l := range []struct {
		key   string
		addrs []string
	}{
		{"smtp.listen", c.SMTP.Listen}, {"submission.listen", c.Submission.Listen}, {"submission.listen_tls", c.Submission.ListenTLS},
		{"imap.listen", c.IMAP.Listen}, {"imap.listen_tls", c.IMAP.ListenTLS},
	} {
		for _, a := range l.addrs {
			out = append(out, listenAddr{l.key, a})
		}
	}
	if c.Web.Listen != "" {
		out = append(out, listenAddr{"web.listen", c.Web.Listen})
	}
	return out
}

// Has reports whether the node has a role.
func (c *Config) Has(role string) bool { return slices.Contains(c.Roles, role) }

// AdminSocket is where the commands reach the node.
func (c *Config) AdminSocket() string { return filepath.Join(c.DataDir, "admin.sock") }

// RootKeyPath is the file of the root key.
func (c *Config) RootKeyPath() string { return strings.TrimPrefix(c.Keys.URL, "file:") }

// Size is a number of bytes, written as 64MiB, 512KiB or a plain number.
type Size int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(b []byte) error {
	text := strings.TrimSpace(string(b))
	shift := 0
	for unit, n := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
		if rest, ok := strings.CutSuffix(text, unit); ok {
			text, shift = strings.TrimSpace(rest), n
		}
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n <= 0 {
		return fmt.Errorf("%q is no size; write 64MiB, 512KiB or a number of bytes", b)
	}
	*s = Size(n << shift)
	return nil
}
