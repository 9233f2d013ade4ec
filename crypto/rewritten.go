package crypto

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"holdfast/event"
)

const (
	rewrittenMagic = "HFR1"
	rewrittenFront = len(rewrittenMagic) + CertificateSize + 8
)

// Rewritten is a key page from which leaves were punctured after it was stored,
// in its envelope: the header that names the page knows only the digest of the
// first form, so a node that may sign retention vouches for the new one. It holds
// no secret that the page does not hold.
type Rewritten struct {
	// Generation counts how often the page was rewritten, from 1 on.
	Generation uint64
	Sealed     []byte // for [OpenPage]

	binding PageBinding
	cert    Certificate
	sig     []byte
}

// RewritePage returns the envelope of a page that was sealed anew. What the
// node's certificate does not allow nobody will believe: [ErrSignature].
func (k *NodeKey) RewritePage(b PageBinding, generation uint64, sealed []byte) ([]byte, error) {
	if !k.cert.May().Has(event.ClassRetention) || generation == 0 {
		return nil, fmt.Errorf("rewrite key page %v: this node may not: %w", b.Page, ErrSignature)
	}
	out := make([]byte, 0, rewrittenFront+len(sealed)+ed25519.SignatureSize)
	out = append(out, rewrittenMagic...)
	out = append(out, k.cert[:]...)
	out = binary.BigEndian.AppendUint64(out, generation)
	out = append(out, sealed...)
	return append(out, ed25519.Sign(*k.key.private, rewrittenMessage(b, generation, sealed))...), nil
}

func rewrittenMessage(b PageBinding, generation uint64, sealed []byte) []byte {
	digest := sha256.Sum256(sealed)
	return labelled("holdfast rewritten key page v1", b.Log[:], b.Tenant[:], dayBytes(b.Day), b.Page[:], b.Writer[:],
		binary.BigEndian.AppendUint64(nil, generation), digest[:])
}

// ParseRewritten reads the envelope of a page without verifying it.
// [ErrMalformed] if it is none.
func ParseRewritten(b PageBinding, object []byte) (*Rewritten, error) {
	if len(object) < rewrittenFront+ed25519.SignatureSize || string(object[:len(rewrittenMagic)]) != rewrittenMagic {
		return nil, fmt.Errorf("key page %v of %d bytes is not in an envelope: %w", b.Page, len(object), ErrMalformed)
	}
	cert, err := ParseCertificate(object[len(rewrittenMagic):][:CertificateSize])
	if err != nil {
		return nil, err
	}
	end := len(object) - ed25519.SignatureSize
	r := &Rewritten{
		Generation: binary.BigEndian.Uint64(object[rewrittenFront-8:]), Sealed: object[rewrittenFront:end],
		binding: b, cert: cert, sig: object[end:],
	}
	if r.Generation == 0 {
		return nil, fmt.Errorf("key page %v of no generation: %w", b.Page, ErrMalformed)
	}
	return r, nil
}

// Verify returns nil if a node that the installation certified for retention
// signed this form of this page, else [ErrMalformed] or [ErrSignature].
func (r *Rewritten) Verify(installation ed25519.PublicKey) error {
	if err := r.cert.Verify(installation); err != nil {
		return err
	}
	if !r.cert.May().Has(event.ClassRetention) || !verify(r.cert.Node(), rewrittenMessage(r.binding, r.Generation, r.Sealed), r.sig) {
		return fmt.Errorf("rewritten key page %v: %w", r.binding.Page, ErrSignature)
	}
	return nil
}
