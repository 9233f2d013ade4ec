package crypto

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"holdfast/event"
)

const certificateVersion = 1

// CertificateSize is the length of a [Certificate] in bytes.
const CertificateSize = 1 + 2 + ed25519.PublicKeySize + ed25519.SignatureSize

// Certificate says, signed by the installation, which classes of events the
// holder of a node key may sign. It holds no secret. The zero Certificate is
// invalid.
type Certificate [CertificateSize]byte

// ParseCertificate reads the bytes of a certificate without verifying it.
func ParseCertificate(b []byte) (Certificate, error) {
	if len(b) != CertificateSize || b[0] != certificateVersion {
		return Certificate{}, fmt.Errorf("certificate of %d bytes: %w", len(b), ErrMalformed)
	}
	return Certificate(b), nil
}

// May returns the classes the node may sign. It means nothing until the
// certificate is verified.
func (c Certificate) May() event.Classes { return event.Classes(binary.BigEndian.Uint16(c[1:])) }

// Node returns the node's public key.
func (c Certificate) Node() ed25519.PublicKey {
	return append(ed25519.PublicKey(nil), c[3:3+ed25519.PublicKeySize]...)
}

func certificateMessage(c []byte) []byte { return labelled("holdfast node certificate v1", c) }

func certify(installation ed25519.PrivateKey, node ed25519.PublicKey, may event.Classes) (c Certificate, err error) {
	if len(node) != ed25519.PublicKeySize || may == 0 {
		return c, fmt.Errorf("certify a node key of %d bytes for classes %#x: %w", len(node), uint16(may), ErrMalformed)
	}
	c[0] = certificateVersion
	binary.BigEndian.PutUint16(c[1:], uint16(may))
	copy(c[3:], node)
	const signed = CertificateSize - ed25519.SignatureSize
	copy(c[signed:], ed25519.Sign(installation, certificateMessage(c[:signed])))
	return c, nil
}

// verify reports whether sig is the key's signature of message. It is false,
// and does not panic, for a key or signature of a wrong length.
func verify(key ed25519.PublicKey, message, sig []byte) bool {
	return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, message, sig)
}

// Verify returns nil if the installation signed the certificate, else
// [ErrMalformed] or [ErrSignature].
func (c Certificate) Verify(installation ed25519.PublicKey) error {
	if c[0] != certificateVersion {
		return fmt.Errorf("certificate of version %d: %w", c[0], ErrMalformed)
	}
	const signed = CertificateSize - ed25519.SignatureSize
	if !verify(installation, certificateMessage(c[:signed]), c[signed:]) {
		return fmt.Errorf("node certificate: %w", ErrSignature)
	}
	return nil
}

// VerifyHeader returns nil if the certified node signed the header. It does not
// verify the certificate itself, so that a reader may do that once.
func (c Certificate) VerifyHeader(header, sig []byte) error {
	if !verify(c.Node(), headerMessage(header), sig) {
		return fmt.Errorf("header of %d bytes: %w", len(header), ErrSignature)
	}
	return nil
}

// VerifyHeader returns nil if the installation signed the certificate and the
// certified node signed the header. The caller checks that the certificate
// allows the classes of the header's events.
func VerifyHeader(c Certificate, installation ed25519.PublicKey, header, sig []byte) error {
	if err := c.Verify(installation); err != nil {
		return err
	}
	return c.VerifyHeader(header, sig)
}

func headerMessage(header []byte) []byte {
	digest := sha256.Sum256(header)
	return labelled("holdfast header v1", digest[:])
}

// NodeKey signs what one start of one process writes. It is minted when the
// process starts and never leaves its memory. All methods may be called by any
// goroutine.
type NodeKey struct {
	redacted
	key  *nodePrivate
	cert Certificate
}

type nodePrivate struct {
	redacted
	private *ed25519.PrivateKey // by pointer for the reason stated at secret
}

// NewNodeKey mints a node key and has it certified for the given classes.
func NewNodeKey(ctx context.Context, ks Installation, may event.Classes) (*NodeKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("mint a node key: %w", err)
	}
	cert, err := ks.CertifyNode(ctx, public, may)
	if err != nil {
		return nil, fmt.Errorf("mint a node key: %w", err)
	}
	return &NodeKey{key: &nodePrivate{private: &private}, cert: cert}, nil
}

// Sign returns the 64-byte signature of a header.
func (k *NodeKey) Sign(header []byte) []byte {
	return ed25519.Sign(*k.key.private, headerMessage(header))
}

// SignText returns the 64-byte signature of a text, without a label of ours: it is
// for formats that others have drawn. A text holds no zero byte, which the
// message of every other signature of a node key does, so that none can stand in
// for another; SignText panics where one does.
func (k *NodeKey) SignText(text []byte) []byte {
	if bytes.IndexByte(text, 0) >= 0 {
		panic("internal error: sign a text with a zero byte")
	}
	return ed25519.Sign(*k.key.private, text)
}

// Certificate returns what the installation says about this key.
func (k *NodeKey) Certificate() Certificate { return k.cert }
