package crypto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"testing/cryptotest"
	"time"

	"holdfast/event"
)

var update = flag.Bool("update", false, "write testdata/*.json anew")

// hexBytes are bytes that stand in JSON as hexadecimal digits.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

// The vectors of each level. Everything a level needs of the one above is
// repeated, so that each file can be checked alone.
type (
	rootVectors struct {
		RootFile, Backup, Passphrase string
		Fixed, Ratchet               hexBytes
		Day, LaterDay                event.Day
		LaterRatchet                 hexBytes // K(LaterDay)
		CheckValue                   hexBytes
		TenantName                   string
		TenantID                     hexBytes
		LocalPurpose                 string
		LocalKey                     hexBytes
		InstallationKey              hexBytes
		Log, Tenant                  hexBytes
		Wrapped                      hexBytes
		TenantSecret, StateSecret    hexBytes
		Node, Certificate            hexBytes
		May                          event.Classes
		NodeSeed, Header, Signature  hexBytes
	}
	dayVectors struct {
		TenantSecret, Log, Tenant, Ratchet hexBytes // Ratchet is K(Day)
		Day                                event.Day
		KEMSeed, KEMPublic, LocalSecret    hexBytes
		Published, InstallationKey         hexBytes
	}
	leafVector struct {
		Index uint32
		Key   hexBytes
	}
	pageVectors struct {
		Day                       dayVectors
		Page, Writer              hexBytes
		Root                      hexBytes
		Sealed                    hexBytes
		Leaves                    []leafVector
		PuncturedSealed           hexBytes
		PuncturedLeaves, Survived []uint32
	}
	partVector struct {
		Name                    string
		Kind                    string // small, stream, state, local, lookup
		Secret                  hexBytes
		Log, Tenant, Event      hexBytes
		Role                    event.Role
		Part                    uint32
		Context                 string `json:",omitempty"` // of a local value; purpose of a lookup
		Plain                   hexBytes
		Zeros                   int `json:",omitempty"` // zero bytes that follow Plain
		Sealed, Key, Commitment hexBytes
	}
)

func vectorFile(name string) string { return filepath.Join("testdata", name+".json") }

func writeVectors(t *testing.T, name string, v any) {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile(name), append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readVectors[T any](t *testing.T, name string) (v T) {
	t.Helper()
	b, err := os.ReadFile(vectorFile(name))
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s is\n%.120x, want\n%.120x", what, got, want)
	}
}

// TestVectors checks that everything that was ever written opens, and that all
// derivations give what they gave. With -update the files are written anew,
// which is right only for a new vector: a changed one is a broken format.
func TestVectors(t *testing.T) {
	if *update {
		cryptotest.SetGlobalRandom(t, 1)
		writeRootVectors(t)
		writeDayAndPageVectors(t)
		writePartVectors(t)
	}
	t.Run("root", checkRootVectors)
	t.Run("day", checkDayVectors)
	t.Run("page", checkPageVectors)
	t.Run("part", checkPartVectors)
}

func writeRootVectors(t *testing.T) {
	ctx := t.Context()
	r := must(CreateRoot(rootPath(t), today))
	var backup bytes.Buffer
	if err := r.Backup(&backup, []byte("correct horse battery staple"), time.Unix(1_790_000_000, 0)); err != nil {
		t.Fatal(err)
	}
	check, name, purpose := must(r.CheckValue(ctx)), "example.org", "badger"
	id := must(r.TenantID(ctx, name))
	wrapped := must(r.NewTenant(ctx, id, testLog))
	keys := must(r.OpenTenant(ctx, id, testLog, wrapped))
	may := event.ClassesOf(event.ClassAcceptance, event.ClassMailbox)
	node := must(NewNodeKey(ctx, r, may))
	header := []byte("some header")
	writeVectors(t, "root", rootVectors{
		RootFile: string(must(os.ReadFile(r.path))), Backup: backup.String(), Passphrase: "correct horse battery staple",
		Fixed: r.state.fixed.bytes(), Ratchet: r.state.ratchet.bytes(), Day: today,
		LaterDay: today + 30, LaterRatchet: must(r.keyOf(today + 30)).bytes(),
		CheckValue: check[:], TenantName: name, TenantID: id[:], LocalPurpose: purpose, LocalKey: must(r.LocalKey(ctx, purpose)),
		InstallationKey: hexBytes(must(r.InstallationKey(ctx))), Log: testLog[:], Tenant: id[:], Wrapped: wrapped,
		TenantSecret: keys.secret.bytes(), StateSecret: keys.state.bytes(),
		Node: hexBytes(node.cert.Node()), Certificate: node.cert[:], May: may, NodeSeed: node.key.private.Seed(),
		Header: header, Signature: node.Sign(header),
	})
}

func checkRootVectors(t *testing.T) {
	ctx := t.Context()
	v := readVectors[rootVectors](t, "root")
	path := rootPath(t)
	if err := os.WriteFile(path, []byte(v.RootFile), 0o600); err != nil {
		t.Fatal(err)
	}
	r := must(LoadRoot(path))
	same(t, "fixed secret", r.state.fixed.bytes(), v.Fixed)
	same(t, "ratchet", r.state.ratchet.bytes(), v.Ratchet)
	if r.Day() != v.Day {
		t.Errorf("ratchet at %v", r.Day())
	}
	sameRoot(t, r, must(RestoreRoot(rootPath(t), bytes.NewReader([]byte(v.Backup)), []byte(v.Passphrase))))
	same(t, "later ratchet", must(r.keyOf(v.LaterDay)).bytes(), v.LaterRatchet)
	check, id := must(r.CheckValue(ctx)), must(r.TenantID(ctx, v.TenantName))
	same(t, "check value", check[:], v.CheckValue)
	same(t, "tenant id", id[:], v.TenantID)
	same(t, "local key", must(r.LocalKey(ctx, v.LocalPurpose)), v.LocalKey)
	installation := must(r.InstallationKey(ctx))
	same(t, "installation key", installation, v.InstallationKey)
	keys := must(r.OpenTenant(ctx, event.Tenant(v.Tenant), event.LogID(v.Log), v.Wrapped))
	same(t, "tenant secret", keys.secret.bytes(), v.TenantSecret)
	same(t, "state secret", keys.state.bytes(), v.StateSecret)
	cert := must(r.CertifyNode(ctx, hexBytesKey(v.Node), v.May))
	same(t, "certificate", cert[:], v.Certificate)
	if err := VerifyHeader(must(ParseCertificate(v.Certificate)), installation, v.Header, v.Signature); err != nil {
		t.Error(err)
	}
}

func hexBytesKey(h hexBytes) []byte { return h }

func writeDayAndPageVectors(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t)
	day := today + 30
	pair := w.day(t, day)
	d := dayVectors{
		TenantSecret: w.tenant.secret.bytes(), Log: testLog[:], Tenant: testTenant[:], Day: day,
		Ratchet: must(w.root.keyOf(day)).bytes(), KEMSeed: must(pair.sec.kem.Bytes()),
		KEMPublic: pair.public.key.Bytes(), LocalSecret: pair.sec.local.bytes(),
		Published:       must(w.root.PublishDay(ctx, pair.public)),
		InstallationKey: hexBytes(must(w.root.InstallationKey(ctx))),
	}
	writeVectors(t, "day", d)

	b := testPageBinding(day)
	_, sealed, err := NewPage(pair.Public(), b)
	if err != nil {
		t.Fatal(err)
	}
	page := must(OpenPage(pair, b, sealed))
	v := pageVectors{
		Day: d, Page: b.Page[:], Writer: b.Writer[:], Sealed: sealed,
		Root:            bytes.Clone(page.nodes[0].key.bytes()),
		PuncturedLeaves: []uint32{1, 1 << 19}, Survived: []uint32{0, 2, 1<<19 + 1, PageLeaves - 1},
	}
	for _, i := range []uint32{0, 1, 2, 12345, 1 << 19, 1<<19 + 1, PageLeaves - 1} {
		v.Leaves = append(v.Leaves, leafVector{i, must(page.Leaf(i)).key.bytes()})
	}
	page.Puncture(v.PuncturedLeaves...)
	v.PuncturedSealed = must(page.Seal(pair.Public()))
	writeVectors(t, "page", v)
}

// derive derives the day's pair from the vectors' secrets.
func (v dayVectors) derive() *DayPair {
	keys := &TenantKeys{tenant: event.Tenant(v.Tenant), log: event.LogID(v.Log), secret: secretOf(v.TenantSecret)}
	return must(deriveDayPair(secretOf(v.Ratchet), keys, v.Day))
}

func checkDayVectors(t *testing.T) {
	v := readVectors[dayVectors](t, "day")
	pair := v.derive()
	same(t, "KEM seed", must(pair.sec.kem.Bytes()), v.KEMSeed)
	same(t, "KEM public key", pair.public.key.Bytes(), v.KEMPublic)
	same(t, "local secret", pair.sec.local.bytes(), v.LocalSecret)
	pub := must(ParseDayPublic(hexBytesKey(v.InstallationKey), v.Published))
	same(t, "public key", pub.Bytes(), pair.Public().Bytes())
}

func checkPageVectors(t *testing.T) {
	v := readVectors[pageVectors](t, "page")
	pair := v.Day.derive()
	b := PageBinding{event.LogID(v.Day.Log), event.Tenant(v.Day.Tenant), v.Day.Day, event.Page(v.Page), event.Writer(v.Writer)}
	page := must(OpenPage(pair, b, v.Sealed))
	same(t, "root of the tree", page.nodes[0].key.bytes(), v.Root)
	punctured := must(OpenPage(pair, b, v.PuncturedSealed))
	want := map[uint32][]byte{}
	for _, l := range v.Leaves {
		same(t, "leaf", must(page.Leaf(l.Index)).key.bytes(), l.Key)
		want[l.Index] = l.Key
	}
	for _, i := range v.PuncturedLeaves {
		if _, err := punctured.Leaf(i); err == nil {
			t.Errorf("leaf %d is in the punctured page", i)
		}
	}
	for _, i := range v.Survived {
		same(t, "leaf of the punctured page", must(punctured.Leaf(i)).key.bytes(), want[i])
	}
}

func (v partVector) binding() Binding {
	return Binding{event.LogID(v.Log), event.Tenant(v.Tenant), event.ID(v.Event), v.Role, v.Part}
}

func (v partVector) plaintext() []byte {
	return append(bytes.Clone(v.Plain), make([]byte, v.Zeros)...)
}

func (v partVector) state() *TenantKeys {
	return &TenantKeys{tenant: event.Tenant(v.Tenant), log: event.LogID(v.Log), state: secretOf(v.Secret)}
}

// seal fills in what a vector's secret, binding and plaintext give.
func (v *partVector) seal(t *testing.T) {
	c, l := NewCodec(), Leaf{key: secretOf(v.Secret)}
	var commit Commitment
	switch v.Kind {
	case "small":
		v.Sealed, commit = c.SealSmall(l, v.binding(), v.plaintext())
		v.Key, _, _ = messageKey(l, v.binding(), useSmall)
	case "stream":
		v.Sealed, commit = sealStream(t, c, l, v.binding(), v.plaintext(), 1<<20)
		v.Key, _, _ = messageKey(l, v.binding(), useStream)
	case "state":
		v.Sealed, commit = v.state().SealState(v.binding(), v.plaintext())
		k, _ := v.state().stateKeys(v.binding())
		v.Key = k[:32]
	case "local":
		v.Sealed = newLocalSealer(secretOf(v.Secret), c).Seal([]byte(v.Context), v.plaintext())
	case "lookup":
		sum := lookup(secretOf(v.Secret), v.Context, v.Plain)
		v.Sealed = sum[:]
	}
	v.Commitment = commit[:]
}

func writePartVectors(t *testing.T) {
	var all []partVector
	for _, p := range []struct {
		name, kind string
		plain      []byte
		zeros      int
	}{
		{"empty", "small", nil, 0},
		{"raw", "small", []byte("Subject: hello\r\n"), 0},
		{"zstd", "small", text(500, 1), 0},
		{"empty", "stream", nil, 0},
		{"one chunk, zstd", "stream", text(2000, 2), 0},
		{"one chunk, raw", "stream", noise(300, 2), 0},
		{"two chunks", "stream", text(500, 3), chunkSize - 400},
		{"one full chunk", "stream", nil, chunkSize},
		{"allotment", "state", []byte("long-lived"), 0},
		{"raw", "local", []byte("Subject: hello"), 0},
		{"zstd", "local", text(400, 4), 0},
		{"message id", "lookup", []byte("<1@example.org>"), 0},
	} {
		n := byte(len(all))
		id := testID[event.ID](n)
		v := partVector{
			Name: p.name, Kind: p.kind, Secret: testSecret(n).bytes(), Log: testLog[:], Tenant: testTenant[:],
			Event: id[:], Role: event.RoleMeta, Part: uint32(n) << 8, Plain: p.plain, Zeros: p.zeros,
		}
		if p.kind == "local" || p.kind == "lookup" {
			v.Context = "row 7"
		}
		v.seal(t)
		all = append(all, v)
	}
	writeVectors(t, "part", all)
}

func checkPartVectors(t *testing.T) {
	for _, v := range readVectors[[]partVector](t, "part") {
		t.Run(v.Kind+" "+v.Name, func(t *testing.T) {
			c, l := NewCodec(), Leaf{key: secretOf(v.Secret)}
			var got []byte
			switch v.Kind {
			case "small":
				got = must(c.OpenSmall(l, v.binding(), Commitment(v.Commitment), v.Sealed, 1<<20))
			case "stream":
				got = must(readAll(c, l, v.binding(), Commitment(v.Commitment), v.Sealed))
			case "state":
				got = must(v.state().OpenState(v.binding(), Commitment(v.Commitment), v.Sealed))
			case "local":
				got = must(newLocalSealer(secretOf(v.Secret), c).Open([]byte(v.Context), v.Sealed))
			case "lookup":
				got = v.Plain
			default:
				t.Fatalf("kind %q", v.Kind)
			}
			same(t, "plaintext", got, v.plaintext())
			again := v
			again.seal(t)
			same(t, "key", again.Key, v.Key)
			same(t, "commitment", again.Commitment, v.Commitment)
			// What is not compressed does not depend on the version of zstd.
			if v.Name != "zstd" && v.Kind != "stream" || v.Name == "one chunk, raw" {
				same(t, "sealed value", again.Sealed, v.Sealed)
			}
		})
	}
}
