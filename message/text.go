package message

import (
	"errors"
	"io"
	"strings"

	"golang.org/x/net/html"
)

// IsText reports whether p has text that [TextReader] returns: any text type,
// and the parts of a report that tell of a message (RFC 3464, RFC 6522).
func (p *Part) IsText() bool {
	if strings.EqualFold(p.Type, "text") {
		return true
	}
	return strings.EqualFold(p.Type, "message") && p.Message == nil
}

// TextReader returns the text of a part as UTF-8: without its transfer
// encoding, from its charset, HTML reduced to what a reader sees and to the
// addresses of its links. r is the body as it lies in the message. A part that
// is no text (see [Part.IsText]) has none. Content never makes it fail; errors
// of r are passed on. It keeps at most about a megabyte.
func TextReader(part Part, r io.Reader) io.Reader {
	if !part.IsText() {
		return strings.NewReader("")
	}
	text := charsetReader(part.Param("charset"), DecodeBody(part, r))
	if part.MediaType() == "text/html" || part.MediaType() == "text/xhtml" {
		return &htmlReader{source: text}
	}
	return text
}

// maxToken bounds one tag or piece of text of an HTML part.
const maxToken = 256 << 10

// htmlReader reads the text of an HTML document.
type htmlReader struct {
	source io.Reader
	tokens *html.Tokenizer
	out    []byte // ready to be read
	buf    []byte
	hidden string // the element whose content is not shown, or ""
	err    error
}

// Read implements io.Reader.
func (h *htmlReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if h.tokens == nil {
		h.restart()
	}
	for len(h.out) == 0 {
		if h.err != nil {
			return 0, h.err
		}
		h.buf = h.buf[:0]
		h.next()
		h.out = h.buf
	}
	n := copy(p, h.out)
	h.out = h.out[n:]
	return n, nil
}

func (h *htmlReader) restart() {
	h.tokens = html.NewTokenizer(h.source)
	h.tokens.SetMaxBuf(maxToken)
}

// next appends the text of the next token to h.buf.
func (h *htmlReader) next() {
	switch h.tokens.Next() {
	case html.ErrorToken:
		err := h.tokens.Err()
		raw := h.tokens.Raw()
		if errors.Is(err, html.ErrBufferExceeded) {
			// A token longer than any real one is read as text, and reading
			// goes on behind it.
			h.buf = append(h.buf, raw...)
			rest := strings.NewReader(string(h.tokens.Buffered()))
			h.source = io.MultiReader(rest, h.source)
			h.hidden = ""
			h.restart()
			return
		}
		h.buf = append(h.buf, raw...)
		h.err = err
	case html.TextToken:
		if h.hidden == "" {
			h.buf = append(h.buf, h.tokens.Text()...)
		}
	case html.StartTagToken, html.SelfClosingTagToken:
		h.startTag()
	case html.EndTagToken:
		name, _ := h.tokens.TagName()
		if string(name) == h.hidden {
			h.hidden = ""
		}
		h.separate(string(name))
	}
}

// startTag appends the attributes that a reader sees or follows.
func (h *htmlReader) startTag() {
	name, hasAttr := h.tokens.TagName()
	tag := string(name)
	h.separate(tag)
	switch tag {
	case "script", "style":
		h.hidden = tag
	}
	for hasAttr {
		var key, value []byte
		key, value, hasAttr = h.tokens.TagAttr()
		switch string(key) {
		case "href", "alt", "title":
			if len(value) > 0 {
				h.buf = append(append(append(h.buf, ' '), value...), ' ')
			}
		}
	}
}

// separate appends white space for a tag that begins or ends a line, so that
// words in neighbouring cells do not grow together, while those with a tag in
// the middle stay whole.
func (h *htmlReader) separate(tag string) {
	switch tag {
	case "a", "abbr", "acronym", "b", "bdo", "big", "cite", "code", "dfn", "em", "font", "i",
		"ins", "kbd", "mark", "o:p", "s", "small", "span", "strike", "strong", "sub", "sup",
		"tt", "u", "var", "wbr":
		return
	}
	h.buf = append(h.buf, '\n')
}
