package shadow

import (
	"iter"
	"strings"
	"unicode"
	"unicode/utf8"

	"holdfast/message"
)

// fold makes text comparable without regard to case: each character becomes
// the small form of its capital, so that all forms of one letter meet.
func foldCase(s string) string {
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || 'A' <= c && c <= 'Z' {
			return strings.Map(foldRune, s)
		}
	}
	return s
}

func foldRune(r rune) rune {
	if r < utf8.RuneSelf {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}
	return unicode.ToLower(unicode.ToUpper(r))
}

// spaceless: the script is written without spaces between words.
func spaceless(r rune) bool {
	return r >= 0x0e00 && unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar)
}

func inWord(r rune) bool {
	if r < utf8.RuneSelf {
		return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || 'A' <= r && r <= 'Z'
	}
	return unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsNumber(r)
}

// words yields the words of folded text; of a spaceless script, each character.
func words(folded string) iter.Seq[string] {
	return func(yield func(string) bool) {
		start := -1
		for i, r := range folded {
			alone := spaceless(r)
			if inWord(r) && !alone {
				if start < 0 {
					start = i
				}
				continue
			}
			if start >= 0 && !yield(folded[start:i]) {
				return
			}
			start = -1
			if alone && !yield(folded[i:i+utf8.RuneLen(r)]) {
				return
			}
		}
		if start >= 0 {
			yield(folded[start:])
		}
	}
}

// runs yields the runs of two and more characters of spaceless scripts.
func runs(folded string) iter.Seq[string] {
	return func(yield func(string) bool) {
		start := -1
		for i, r := range folded + "." {
			switch {
			case spaceless(r):
				if start < 0 {
					start = i
				}
			case start >= 0:
				if run := folded[start:i]; utf8.RuneCountInString(run) > 1 && !yield(run) {
					return
				}
				start = -1
			}
		}
	}
}

// address is an address as it is compared. Of one without "@" the domain is the
// whole.
type address struct{ whole, domain string }

// canonical folds an address, and takes the quotes off the local part (RFC 5321
// §4.1.2), behind the last "@" of which the domain stands.
func canonical(addr string) address {
	whole := foldCase(addr)
	at := strings.LastIndexByte(whole, '@')
	if at < 0 {
		return address{whole, whole}
	}
	domain := whole[at+1:]
	if at >= 2 && whole[0] == '"' && whole[at-1] == '"' {
		whole = unquote(whole[1:at-1]) + whole[at:]
	}
	return address{whole, domain}
}

// names returns what a recipient is found by: its path and, where that has no
// domain or spells it otherwise, its path in the domain.
func (c rcpt) names() []address {
	a := canonical(c.path)
	if c.domain == "" || c.domain == a.domain {
		return []address{a}
	}
	local := a.whole
	if at := strings.LastIndexByte(local, '@'); at >= 0 {
		local = local[:at]
	}
	return []address{a, {local + "@" + c.domain, c.domain}}
}

func unquote(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		out = append(out, s[i])
	}
	return string(out)
}

// cut shortens text to at most n bytes of whole characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// normalID returns a Message-ID as it is compared: without brackets and white
// space however often they are taken off, so that what a row shows can be looked
// for.
func normalID(s string) string {
	s = cut(message.NormaliseMessageID(s), maxMessageID)
	for {
		n := message.NormaliseMessageID(s)
		if n == s {
			return s
		}
		s = n // shorter each time
	}
}
