package imapgw

import (
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"holdfast/continuity"
)

// List implements LIST (RFC 9051 §6.3.9, RFC 5258, RFC 5819, RFC 6154) and LSUB
// (RFC 3501 §6.3.9).
func (s *session) List(w *imapserver.ListWriter, ref string, patterns []string, options *imap.ListOptions) error {
	if len(patterns) == 0 || len(patterns) == 1 && patterns[0] == "" {
		// RFC 9051 §6.3.9: a question for the delimiter.
		return w.WriteList(&imap.ListData{Attrs: []imap.MailboxAttr{imap.MailboxAttrNoSelect}, Delim: delimiter})
	}
	boxes, err := s.user.List(s.ctx)
	if err != nil {
		return answer(err, false)
	}
	t := newTree(boxes)
	_, rev2 := s.ic.EnabledCaps()[imap.CapIMAP4rev2]
	extended := rev2 || *options != (imap.ListOptions{})
	for _, n := range t.nodes {
		if !matchAny(n.name, ref, patterns) {
			continue
		}
		data := t.entry(n, options, extended, func(below string) bool { return matchAny(below, ref, patterns) })
		if data == nil {
			continue
		}
		if options.ReturnStatus != nil && n.exists() {
			data.Status = s.statusData(n.box)
		}
		if err := w.WriteList(data); err != nil {
			return err
		}
	}
	return nil
}

// node is a name in the hierarchy. box is nil for a level that exists only
// because there are mailboxes below it.
type node struct {
	name string
	box  *continuity.Mailbox
}

func (n node) exists() bool     { return n.box != nil && !n.box.NonExistent }
func (n node) subscribed() bool { return n.box != nil && n.box.Subscribed }
func (n node) use() string {
	if n.exists() {
		return n.box.Use
	}
	return ""
}

// tree is all names, sorted so that those below a name follow it, INBOX first.
type tree struct{ nodes []node }

func newTree(boxes []continuity.Mailbox) *tree {
	t := &tree{}
	have := make(map[string]bool, len(boxes))
	for i := range boxes {
		have[boxes[i].Name] = true
		t.nodes = append(t.nodes, node{boxes[i].Name, &boxes[i]})
	}
	for i := range boxes {
		if boxes[i].NonExistent {
			continue
		}
		for name := boxes[i].Name; ; {
			cut := strings.LastIndexByte(name, delimiter)
			if cut < 0 {
				break
			}
			name = name[:cut]
			if !have[name] {
				have[name] = true
				t.nodes = append(t.nodes, node{name: name})
			}
		}
	}
	slices.SortFunc(t.nodes, func(a, b node) int { return strings.Compare(sortKey(a.name), sortKey(b.name)) })
	return t
}

func sortKey(name string) string {
	key := strings.ReplaceAll(name, "/", "\x00")
	if name == inbox || strings.HasPrefix(name, inbox+"/") {
		return "\x00" + key
	}
	return key
}

// anyBelow reports whether one of the names below name satisfies is.
func (t *tree) anyBelow(name string, is func(node) bool) bool {
	return slices.ContainsFunc(t.nodes, func(n node) bool {
		return len(n.name) > len(name) && n.name[len(name)] == delimiter && n.name[:len(name)] == name && is(n)
	})
}

// entry is what LIST says of a name that matches, or nil if it is not selected.
// matches tells whether another name matches too.
func (t *tree) entry(n node, o *imap.ListOptions, extended bool, matches func(string) bool) *imap.ListData {
	data := &imap.ListData{Delim: delimiter, Mailbox: n.name}
	selected := true
	if o.SelectSubscribed && !n.subscribed() || o.SelectSpecialUse && n.use() == "" {
		selected = false
	}
	if !o.SelectSubscribed && !n.exists() {
		// A name that is only subscribed is none of LIST's; a level with
		// mailboxes below is.
		selected = n.box == nil || t.anyBelow(n.name, node.exists)
		selected = selected && !o.SelectSpecialUse
	}
	if o.SelectRecursiveMatch {
		// RFC 5258 §3.5: a parent of a selected name that is not shown itself.
		below := func(b node) bool { return b.subscribed() && (!o.SelectSpecialUse || b.use() != "") && !matches(b.name) }
		if t.anyBelow(n.name, below) {
			data.ChildInfo = &imap.ListDataChildInfo{Subscribed: true}
			selected = true
		}
	}
	if !selected {
		return nil
	}
	if !n.exists() {
		// RFC 5258 §3.4: \NonExistent implies \Noselect. Clients that use LIST as
		// in RFC 3501, or LSUB (which looks like LIST (SUBSCRIBED) from here), know
		// only the latter.
		if extended {
			data.Attrs = append(data.Attrs, imap.MailboxAttrNonExistent)
		}
		if !extended || *o == (imap.ListOptions{SelectSubscribed: true}) {
			data.Attrs = append(data.Attrs, imap.MailboxAttrNoSelect)
		}
	}
	if (o.SelectSubscribed || o.ReturnSubscribed) && n.subscribed() {
		data.Attrs = append(data.Attrs, imap.MailboxAttrSubscribed)
	}
	if t.anyBelow(n.name, node.exists) {
		data.Attrs = append(data.Attrs, imap.MailboxAttrHasChildren)
	} else {
		data.Attrs = append(data.Attrs, imap.MailboxAttrHasNoChildren)
	}
	if use := n.use(); use != "" {
		data.Attrs = append(data.Attrs, imap.MailboxAttr(use))
	}
	return data
}

// maxPatterns bounds the patterns of one LIST that are looked at.
const maxPatterns = 100

func matchAny(name, ref string, patterns []string) bool {
	for _, p := range patterns[:min(len(patterns), maxPatterns)] {
		if matchName(name, mailboxPattern(ref+p)) {
			return true
		}
	}
	return false
}

// mailboxPattern writes INBOX at the beginning of a pattern in capitals.
func mailboxPattern(p string) string {
	if len(p) >= len(inbox) && strings.EqualFold(p[:len(inbox)], inbox) && (len(p) == len(inbox) || strings.IndexByte("/%*", p[len(inbox)]) >= 0) {
		return inbox + p[len(inbox):]
	}
	return p
}

// matchName reports whether name matches pattern, in which "*" stands for any
// characters and "%" for any but the delimiter. It takes time in proportion to
// the product of the lengths, whatever the pattern.
func matchName(name, pattern string) bool {
	// reach[i]: the pattern so far can match name[:i].
	reach := make([]bool, len(name)+1)
	reach[0] = true
	for k := range len(pattern) {
		c := pattern[k]
		if c == '*' || c == '%' {
			for i := 1; i <= len(name); i++ {
				reach[i] = reach[i] || reach[i-1] && (c == '*' || name[i-1] != delimiter)
			}
			continue
		}
		for i := len(name); i > 0; i-- {
			reach[i] = reach[i-1] && name[i-1] == c
		}
		reach[0] = false
	}
	return reach[len(name)]
}
