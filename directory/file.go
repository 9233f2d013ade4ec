package directory

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// File is how an administrator says domains and users should be. What is left
// out has the default that is named beside it.
type File struct {
	Domains []FileDomain `toml:"domain"`
	Users   []FileUser   `toml:"user"`
}

// FileDomain is one domain of a [File].
type FileDomain struct {
	Name       string     `toml:"name"`
	Tenant     string     `toml:"tenant"`
	Primary    []string   `toml:"primary"`
	Outbound   string     `toml:"outbound"`    // none: the recipients' MX
	Continuity string     `toml:"continuity"`  // outage
	ShadowDays *int       `toml:"shadow_days"` // 30
	Recipients string     `toml:"recipients"`  // listed
	Health     FileHealth `toml:"health"`
}

// FileHealth is how the state of a primary is found out.
type FileHealth struct {
	ProbeEvery string `toml:"probe_every"` // 5s
	DownAfter  *int   `toml:"down_after"`  // 3
	UpAfter    *int   `toml:"up_after"`    // 2
	DotTimeout string `toml:"dot_timeout"` // 60s
}

// FileUser is one user of a [File].
type FileUser struct {
	Address      string   `toml:"address"`
	Aliases      []string `toml:"aliases"`
	Password     string   `toml:"password"`      // at most one of these two
	PasswordHash string   `toml:"password_hash"` // neither: the password stays what it is
}

// The bounds and defaults of settings.
const (
	defaultShadowDays, maxShadowDays = 30, 3650
	defaultProbeEvery                = 5 * time.Second
	minProbeEvery, maxProbeEvery     = 100 * time.Millisecond, time.Hour
	defaultDownAfter, defaultUpAfter = 3, 2
	maxAfter                         = 100
	minDotTimeout, maxDotTimeout     = time.Second, time.Hour
	maxPrimaries                     = 16
	maxAliases                       = 1000
)

// Upstream is a parsed smtp:// URL.
type Upstream struct {
	Host string
	Port int    // 25 when the URL has none
	TLS  string // required, opportunistic or none
}

// ParseUpstream reads smtp://host[:port][?tls=required|opportunistic|none]. The
// error says what to write instead.
func ParseUpstream(s string) (Upstream, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Upstream{}, errors.New("is not a URL; write smtp://host:port")
	}
	up := Upstream{Host: u.Hostname(), Port: 25, TLS: "opportunistic"}
	switch {
	case u.Scheme != "smtp":
		return Upstream{}, errors.New("must begin with smtp://")
	case up.Host == "":
		return Upstream{}, errors.New("has no host; write smtp://host:port")
	case u.User != nil:
		return Upstream{}, errors.New("has a user name, which is not supported; leave it out")
	case u.Path != "" && u.Path != "/" || u.Fragment != "":
		return Upstream{}, errors.New("has something behind the host that means nothing; write smtp://host:port")
	}
	if net.ParseIP(up.Host) == nil && !validDomain(asciiLower(up.Host)) {
		return Upstream{}, errors.New("has a host that is neither a name nor an IP address")
	}
	if p := u.Port(); p != "" {
		if up.Port, err = strconv.Atoi(p); err != nil || up.Port < 1 || up.Port > 65535 {
			return Upstream{}, errors.New("has a port that is not a number from 1 to 65535")
		}
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Upstream{}, errors.New("has a query that cannot be read; the only one is ?tls=required")
	}
	for k, v := range query {
		if k != "tls" || len(v) != 1 || !slices.Contains([]string{"required", "opportunistic", "none"}, v[0]) {
			return Upstream{}, errors.New("has a query other than ?tls=required, ?tls=opportunistic or ?tls=none")
		}
		up.TLS = v[0]
	}
	return up, nil
}

// validDomain accepts lower-case host names in A-label form.
func validDomain(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
				return false
			}
		}
	}
	return true
}

// check gathers what is wrong with a file.
type check struct {
	errs  []error
	where string
}

func (c *check) fail(field, format string, a ...any) {
	c.errs = append(c.errs, fmt.Errorf("%s: %s: %s", c.where, field, fmt.Sprintf(format, a...)))
}

func (c *check) choice(field, value, def string, choices ...string) string {
	if value == "" {
		return def
	}
	if !slices.Contains(choices, value) {
		c.fail(field, "%q is not one of %s", value, strings.Join(choices, ", "))
	}
	return value
}

func (c *check) number(field string, value *int, def, least, most int) uint32 {
	if value == nil {
		return uint32(def)
	}
	if *value < least || *value > most {
		c.fail(field, "%d is not from %d to %d", *value, least, most)
		return 0
	}
	return uint32(*value)
}

// duration returns milliseconds.
func (c *check) duration(field, value string, def, least, most time.Duration) int64 {
	if value == "" {
		return def.Milliseconds()
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < least || d > most {
		c.fail(field, "%q is not a duration from %v to %v, such as %v", value, least, most, max(def, least))
	}
	return d.Milliseconds()
}
