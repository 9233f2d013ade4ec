package imapgw

import (
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"
)

const (
	// maxKeyword bounds the length of a keyword, maxKeywords how many
	// different ones a mailbox may have seen: each is sent with every SELECT.
	maxKeyword  = 100
	maxKeywords = 200
)

// systemFlags are the flags every mailbox has (RFC 9051 §2.3.2). \Recent is not
// among them: a mailbox that several nodes show cannot keep it, and RFC 9051
// has given it up.
var systemFlags = []imap.Flag{
	imap.FlagAnswered, imap.FlagFlagged, imap.FlagDeleted, imap.FlagSeen, imap.FlagDraft,
}

const (
	flagSeen    = string(imap.FlagSeen)
	flagDeleted = string(imap.FlagDeleted)
)

// mailboxFlags are all flags in use in a mailbox.
func mailboxFlags(keywords []string) []imap.Flag {
	flags := slices.Clone(systemFlags)
	for _, k := range keywords {
		flags = append(flags, imap.Flag(k))
	}
	return flags
}

// flagStrings checks flags that a client wants to set, with keywords those that
// the mailbox knows already, and returns them in the known spelling, each once.
func flagStrings(flags []imap.Flag, keywords []string) ([]string, error) {
	out := make([]string, 0, len(flags))
	for _, f := range flags {
		s, err := flagString(f, keywords)
		if err != nil {
			return nil, err
		}
		if s == "" || slices.ContainsFunc(out, func(o string) bool { return strings.EqualFold(o, s) }) {
			continue
		}
		out = append(out, s)
	}
	fresh := len(keywords)
	for _, s := range out {
		if s[0] != '\\' && !slices.Contains(keywords, s) {
			fresh++
		}
	}
	if fresh > maxKeywords && fresh > len(keywords) {
		return nil, no(imap.ResponseCodeLimit, "Too many keywords in this mailbox")
	}
	return out, nil
}

func flagString(f imap.Flag, keywords []string) (string, error) {
	s := string(f)
	if strings.HasPrefix(s, `\`) {
		if slices.Contains(systemFlags, f) {
			return s, nil
		}
		if strings.EqualFold(s, `\Recent`) {
			return "", nil // old clients send it back with APPEND; it cannot be set
		}
		return "", bad("There is no such system flag")
	}
	if len(s) > maxKeyword {
		return "", no(imap.ResponseCodeLimit, "Keyword is too long")
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return "", bad("Keywords are ASCII")
		}
	}
	// RFC 9051 §2.3.2: keywords are the same in any case.
	for _, k := range keywords {
		if strings.EqualFold(k, s) {
			return k, nil
		}
	}
	return s, nil
}

// hasFlag reports whether flags has f, in any case.
func hasFlag(flags []string, f string) bool {
	for _, g := range flags {
		if g == f || len(g) == len(f) && strings.EqualFold(g, f) {
			return true
		}
	}
	return false
}
