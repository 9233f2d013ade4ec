package loadgen

import (
	"bytes"
	"math"
	"math/rand/v2"
	"sort"
	"strings"
)

// vocabulary is how many words a writer knows and how often it uses each: the
// i-th word about 1/i of the time, as in human text. With 4,000 words the text
// compresses between two- and threefold, as mail does.
const vocabulary = 4000

// common are the words that hold sentences together. The rarer ones are made up
// of syllables.
const common = `the of and to a in for is on that by this with you it not or be are from at as your all have
new more an was we will can us about if my has but our one other do no time they he up may what which
their out use any there see only so his when here who also now help get view first am been would how
were services some these its like than find date back people had name just over state year day into
email two next used work last most make them should system post her city add such please number after
best then good well order under must because through between before thanks regards meeting invoice
project attached contract schedule delivery customer report budget question answer tomorrow`

// A writer makes words, sentences and tokens from one source of randomness.
type writer struct {
	rng   *rand.Rand
	words []string
	until []float64 // words[i] is drawn when a number in [0,1) is below until[i]
}

func newWriter(rng *rand.Rand) *writer {
	w := &writer{rng: rng, words: strings.Fields(common)}
	onsets := strings.Fields("b c d f g h j k l m n p r s t v w br ch cl cr dr fl gr pl pr sh sp st str th tr")
	middles := strings.Fields("a e i o u ai ea ee ie oo ou")
	ends := strings.Fields("- n r s t l nd ng rt ct ment tion ing er ly ness able ed")
	known := map[string]bool{}
	for _, word := range w.words {
		known[word] = true
	}
	for len(w.words) < vocabulary {
		var b strings.Builder
		for range 1 + rng.IntN(3) {
			b.WriteString(onsets[rng.IntN(len(onsets))] + middles[rng.IntN(len(middles))])
		}
		b.WriteString(strings.TrimPrefix(ends[rng.IntN(len(ends))], "-"))
		if word := b.String(); !known[word] {
			known[word] = true
			w.words = append(w.words, word)
		}
	}
	sum := 0.0
	for i := range w.words {
		sum += 1 / math.Pow(float64(i+2), 0.95)
		w.until = append(w.until, sum)
	}
	for i := range w.until {
		w.until[i] /= sum
	}
	return w
}

func (w *writer) word() string {
	return w.words[min(sort.SearchFloat64s(w.until, w.rng.Float64()), len(w.words)-1)]
}

// text writes lines of sentences until b holds about end bytes.
func (w *writer) text(b *bytes.Buffer, end int) {
	line := 0
	for b.Len() < end-2 {
		sentence := 4 + w.rng.IntN(14)
		for i := range sentence {
			word := w.word()
			switch {
			case i == 0:
				word = title(word)
			case w.rng.IntN(40) == 0:
				word = w.token(2 + w.rng.IntN(6)) // Numbers, names, codes.
			case w.rng.IntN(60) == 0:
				word = "größer" // Mail is not ASCII only.
			}
			if i == sentence-1 {
				word += "."
			}
			if line += len(word) + 1; line > 74 {
				b.WriteString("\r\n")
				line = len(word) + 1
			}
			b.WriteString(word)
			b.WriteByte(' ')
		}
		if w.rng.IntN(6) == 0 {
			b.WriteString("\r\n\r\n")
			line = 0
		}
		if w.rng.IntN(40) == 0 {
			b.WriteString("\r\n.hidden by a dot\r\n") // Dot-stuffing is part of the work.
			line = 0
		}
	}
	b.WriteString("\r\n")
}

// html writes a page of paragraphs, with the repetition that HTML mail has.
func (w *writer) html(b *bytes.Buffer, end int) {
	b.WriteString("<html><body style=3D\"font-family:Arial\">\r\n")
	for b.Len() < end-300 {
		b.WriteString("<p style=3D\"margin:0 0 12px 0;color:#" + w.token(6) + "\">\r\n")
		w.text(b, min(end-100, b.Len()+300+w.rng.IntN(900)))
		b.WriteString("</p>\r\n<a href=3D\"https://" + w.word() + ".example/" + w.token(30) + "\">" + w.word() + "</a>\r\n")
	}
	b.WriteString("</body></html>\r\n")
}

func (w *writer) subject() string {
	var words []string
	for range 2 + w.rng.IntN(7) {
		words = append(words, w.word())
	}
	return title(strings.Join(words, " "))
}

func (w *writer) address() string {
	return w.word() + "." + w.word() + "@" + w.word() + ".example"
}

// token is n random letters and digits, which do not compress to less than
// three quarters.
func (w *writer) token(n int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[w.rng.IntN(len(alphabet))]
	}
	return string(b)
}
