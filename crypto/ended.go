package crypto

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"

	"holdfast/event"
)

const (
	endedMagic  = "HFE1"
	endedSigned = len(endedMagic) + CertificateSize + 16 + 1 + 8 + 4
	endedSize   = endedSigned + ed25519.SignatureSize
)

// Ended stands where a tenant's wrapped secrets stood, once the tenant has ended:
// whoever looks for these secrets learns that they are gone on purpose. It holds no
// secret.
type Ended struct {
	// By is the event that says so, of the system tenant.
	By event.Ref

	log    event.LogID
	tenant event.Tenant
	cert   Certificate
	sig    []byte
}

// EndTenant returns what takes the place of a tenant's wrapped secrets. What the
// node's certificate does not allow nobody will believe: [ErrSignature].
func (k *NodeKey) EndTenant(log event.LogID, t event.Tenant, by event.Ref) ([]byte, error) {
	if !k.cert.May().Has(event.ClassRetention) {
		return nil, fmt.Errorf("end tenant %v: this node may not: %w", t, ErrSignature)
	}
	out := append(make([]byte, 0, endedSize), endedMagic...)
	out = append(out, k.cert[:]...)
	out = append(out, by.ID[:]...)
	out = append(out, byte(by.Position.Partition))
	out = binary.BigEndian.AppendUint64(out, uint64(by.Position.Seq))
	out = binary.BigEndian.AppendUint32(out, by.Position.Index)
	return append(out, ed25519.Sign(*k.key.private, endedMessage(log, t, by))...), nil
}

func endedMessage(log event.LogID, t event.Tenant, by event.Ref) []byte {
	at := binary.BigEndian.AppendUint64([]byte{byte(by.Position.Partition)}, uint64(by.Position.Seq))
	return labelled("holdfast ended tenant v1", log[:], t[:], by.ID[:], binary.BigEndian.AppendUint32(at, by.Position.Index))
}

// IsEnded reports whether an object claims to be an [Ended], and no wrapped
// secrets.
func IsEnded(object []byte) bool {
	return len(object) >= len(endedMagic) && string(object[:len(endedMagic)]) == endedMagic
}

// ParseEnded reads what [NodeKey.EndTenant] wrote without verifying it.
// [ErrMalformed] if it is none.
func ParseEnded(log event.LogID, t event.Tenant, object []byte) (*Ended, error) {
	if len(object) != endedSize || !IsEnded(object) {
		return nil, fmt.Errorf("end of tenant %v of %d bytes: %w", t, len(object), ErrMalformed)
	}
	cert, err := ParseCertificate(object[len(endedMagic):][:CertificateSize])
	if err != nil {
		return nil, err
	}
	b := object[len(endedMagic)+CertificateSize:]
	by := event.Ref{ID: event.ID(b[:16]), Position: event.Position{
		Partition: event.Partition(b[16]), Seq: event.Seq(binary.BigEndian.Uint64(b[17:])), Index: binary.BigEndian.Uint32(b[25:]),
	}}
	return &Ended{By: by, log: log, tenant: t, cert: cert, sig: object[endedSigned:]}, nil
}

// Verify returns nil if a node that the installation certified for retention
// signed that this tenant of this log has ended, else [ErrMalformed] or
// [ErrSignature].
func (e *Ended) Verify(installation ed25519.PublicKey) error {
	if err := e.cert.Verify(installation); err != nil {
		return err
	}
	if !e.cert.May().Has(event.ClassRetention) || !verify(e.cert.Node(), endedMessage(e.log, e.tenant, e.By), e.sig) {
		return fmt.Errorf("end of tenant %v: %w", e.tenant, ErrSignature)
	}
	return nil
}
