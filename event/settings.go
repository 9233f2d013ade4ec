package event

// TenantCreated names a tenant. Its keys were stored before.
type TenantCreated struct {
	Name string `cbor:"1,keyasint"`
}

// DomainClaimed gives a domain to a tenant, in the order of partition 0: the
// first claim wins until the domain is released. It belongs to [SystemTenant].
type DomainClaimed struct {
	Domain  string `cbor:"1,keyasint"` // lower case, A-labels
	Tenant  Tenant `cbor:"2,keyasint"`
	Release bool   `cbor:"3,keyasint,omitempty"`
}

// DomainSet states all settings of a domain.
type DomainSet struct {
	Domain     string   `cbor:"1,keyasint"`
	Primary    []string `cbor:"2,keyasint"` // smtp:// URLs, tried in order
	Outbound   string   `cbor:"3,keyasint,omitempty"`
	Continuity string   `cbor:"4,keyasint"` // outage, always, off
	ShadowDays uint32   `cbor:"5,keyasint"`
	Recipients string   `cbor:"6,keyasint"` // listed, any
	ProbeEvery int64    `cbor:"7,keyasint"` // milliseconds
	DownAfter  uint32   `cbor:"8,keyasint"`
	UpAfter    uint32   `cbor:"9,keyasint"`
	DotTimeout int64    `cbor:"10,keyasint,omitempty"` // milliseconds; 0: the default
}

// DomainRemoved ends a domain. Its mail stays until it expires.
type DomainRemoved struct {
	Domain string `cbor:"1,keyasint"`
}

// UserSet states all settings of a user. The fold keeps the Account of the
// first UserSet of an address.
type UserSet struct {
	Account  Account  `cbor:"1,keyasint"`
	Address  string   `cbor:"2,keyasint"`
	Aliases  []string `cbor:"3,keyasint,omitempty"`
	Password string   `cbor:"4,keyasint,omitempty"` // argon2id hash in PHC form
}

// UserRemoved ends a user.
type UserRemoved struct {
	Address string `cbor:"1,keyasint"`
}

// FailoverSet overrides the detector for a domain.
type FailoverSet struct {
	At     Millis `cbor:"1,keyasint"`
	Domain string `cbor:"2,keyasint"`
	Mode   string `cbor:"3,keyasint"` // on, off, auto
	Who    string `cbor:"4,keyasint"`
}

// Audited records that an administrator looked or acted: who, what, and how
// much it touched.
type Audited struct {
	At     Millis `cbor:"1,keyasint"`
	Who    string `cbor:"2,keyasint"`
	Act    string `cbor:"3,keyasint"` // search, redeliver, export
	Detail string `cbor:"4,keyasint,omitempty"`
	Count  uint64 `cbor:"5,keyasint,omitempty"`
}

// KeysBackedUp records that a backup of the root key was written.
type KeysBackedUp struct {
	At Millis `cbor:"1,keyasint"`
}

// Adopted records that a bucket found under another URL was taken into service.
type Adopted struct {
	At  Millis `cbor:"1,keyasint"`
	URL string `cbor:"2,keyasint"`
}

// Posted is a generic message of the bus.
type Posted struct {
	Topic    string            `cbor:"1,keyasint"`
	UUID     string            `cbor:"2,keyasint"`
	Metadata map[string]string `cbor:"3,keyasint,omitempty"`
	Payload  []byte            `cbor:"4,keyasint,omitempty"`
}

// CursorMoved records how far a consumer group of the bus has handled a topic.
type CursorMoved struct {
	Group string   `cbor:"1,keyasint"`
	Topic string   `cbor:"2,keyasint"`
	To    Position `cbor:"3,keyasint"` // the last event handled
}

// Kind returns KindTenantCreated.
func (*TenantCreated) Kind() Kind { return KindTenantCreated }

// Kind returns KindDomainClaimed.
func (*DomainClaimed) Kind() Kind { return KindDomainClaimed }

// Kind returns KindDomainSet.
func (*DomainSet) Kind() Kind { return KindDomainSet }

// Kind returns KindDomainRemoved.
func (*DomainRemoved) Kind() Kind { return KindDomainRemoved }

// Kind returns KindUserSet.
func (*UserSet) Kind() Kind { return KindUserSet }

// Kind returns KindUserRemoved.
func (*UserRemoved) Kind() Kind { return KindUserRemoved }

// Kind returns KindFailoverSet.
func (*FailoverSet) Kind() Kind { return KindFailoverSet }

// Kind returns KindAudited.
func (*Audited) Kind() Kind { return KindAudited }

// Kind returns KindKeysBackedUp.
func (*KeysBackedUp) Kind() Kind { return KindKeysBackedUp }

// Kind returns KindAdopted.
func (*Adopted) Kind() Kind { return KindAdopted }

// Kind returns KindPosted.
func (*Posted) Kind() Kind { return KindPosted }

// Kind returns KindCursorMoved.
func (*CursorMoved) Kind() Kind { return KindCursorMoved }

// Class returns ClassSettings.
func (*TenantCreated) Class() Class { return ClassSettings }

// Class returns ClassSettings.
func (*DomainClaimed) Class() Class { return ClassSettings }

// Class returns ClassSettings.
func (*DomainSet) Class() Class { return ClassSettings }

// Class returns ClassSettings.
func (*DomainRemoved) Class() Class { return ClassSettings }

// Class returns ClassSettings.
func (*UserSet) Class() Class { return ClassSettings }

// Class returns ClassSettings.
func (*UserRemoved) Class() Class { return ClassSettings }

// Class returns ClassSettings.
func (*FailoverSet) Class() Class { return ClassSettings }

// Class returns ClassSettings.
func (*Audited) Class() Class { return ClassSettings }

// Class returns ClassSettings.
func (*KeysBackedUp) Class() Class { return ClassSettings }

// Class returns ClassSettings.
func (*Adopted) Class() Class { return ClassSettings }

// Class returns ClassPosted.
func (*Posted) Class() Class { return ClassPosted }

// Class returns ClassPosted.
func (*CursorMoved) Class() Class { return ClassPosted }
