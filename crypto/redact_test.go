package crypto

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"unsafe"

	"holdfast/event"
)

// memory collects the bytes of everything reachable from a value, through
// pointers, interfaces, slices (to their capacity), maps and unexported fields.
type memory struct {
	seen   map[unsafe.Pointer]map[reflect.Type]bool
	blocks [][]byte
}

func reach(v any) *memory {
	m := &memory{seen: map[unsafe.Pointer]map[reflect.Type]bool{}}
	p := reflect.New(reflect.TypeOf(v))
	p.Elem().Set(reflect.ValueOf(v))
	m.walk(p)
	return m
}

func (m *memory) walk(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return
		}
		at, typ := v.UnsafePointer(), v.Type()
		if m.seen[at][typ] {
			return
		}
		if m.seen[at] == nil {
			m.seen[at] = map[reflect.Type]bool{}
		}
		m.seen[at][typ] = true
		if n := typ.Elem().Size(); n > 0 {
			m.blocks = append(m.blocks, unsafe.Slice((*byte)(at), n))
		}
		m.walk(v.Elem())
	case reflect.Interface:
		if !v.IsNil() {
			e := v.Elem()
			if e.Kind() != reflect.Pointer {
				p := reflect.New(e.Type()) // a copy, so that its bytes can be looked at
				reflect.NewAt(e.Type(), p.UnsafePointer()).Elem().Set(exported(e))
				e = p
			}
			m.walk(e)
		}
	case reflect.Slice:
		if v.Cap() == 0 {
			return
		}
		v = v.Slice(0, v.Cap())
		if n := v.Type().Elem().Size(); n > 0 {
			m.blocks = append(m.blocks, unsafe.Slice((*byte)(v.UnsafePointer()), n*uintptr(v.Len())))
		}
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			m.walk(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			m.walk(v.Field(i))
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			m.walk(it.Key())
			m.walk(it.Value())
		}
	}
}

// exported returns v without the mark of the unexported field it came from.
func exported(v reflect.Value) reflect.Value {
	if v.CanInterface() {
		return v
	}
	p := reflect.New(v.Type()).Elem()
	switch v.Kind() {
	case reflect.String:
		p.SetString(v.String())
	case reflect.Bool:
		p.SetBool(v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		p.SetInt(v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		p.SetUint(v.Uint())
	}
	return p // structs in interfaces hold nothing of ours
}

func (m *memory) holds(b []byte) bool {
	for _, block := range m.blocks {
		if bytes.Contains(block, b) {
			return true
		}
	}
	return false
}

// A leaf that was handed out follows from itself and its ancestors, and from
// nothing else: a child cannot be computed but from its parent. So a sealer
// cannot reopen what it sealed if none of these is in its memory.
func TestPageSealerCanOnlySeal(t *testing.T) {
	sealer, page := newWorld(t).page(t)
	root := page.nodes[0]
	way := func(index uint32) (keys [][32]byte) { // from the root to the leaf
		at := root
		keys = append(keys, *at.key.key)
		for at.depth < pageDepth {
			at = at.child(byte(index >> (pageDepth - 1 - at.depth) & 1))
			keys = append(keys, *at.key.key)
		}
		return keys
	}
	if m := reach(sealer); !m.holds(root.key.bytes()) {
		t.Fatal("the search finds nothing: a fresh sealer holds the root")
	}
	held := sealer.stack[0].key
	defer func() {
		if *held.key != [32]byte{} {
			t.Error("the root of the tree is not wiped, and stays until the collector comes")
		}
	}()
	for i := range uint32(70) {
		l, err := sealer.Next()
		if err != nil {
			t.Fatal(err)
		}
		keys := way(i)
		if keys[pageDepth] != *l.key.key {
			t.Fatalf("leaf %d is not on its own way", i)
		}
		m := reach(sealer)
		for depth, k := range keys {
			if m.holds(k[:]) || m.holds(k[:16]) || m.holds(k[16:]) {
				t.Errorf("after leaf %d the sealer holds its ancestor at depth %d", i, depth)
			}
		}
		// What it does hold derives every leaf to come, and begins there.
		for n, at := range sealer.stack[:sealer.n] {
			if at.first() <= i || !m.holds(at.key.bytes()) {
				t.Errorf("after leaf %d node %d of the frontier begins at leaf %d", i, n, at.first())
			}
		}
	}
}

// An accepting node is given a published day key and makes pages from it.
func TestAcceptingNodeHoldsNoDaySecret(t *testing.T) {
	w := newWorld(t)
	pair := w.day(t, today+30)
	published, _ := w.root.PublishDay(t.Context(), pair.Public())
	installation, _ := w.root.InstallationKey(t.Context())
	pub, err := ParseDayPublic(installation, published)
	if err != nil {
		t.Fatal(err)
	}
	sealer, _, err := NewPage(pub, testPageBinding(today+30))
	if err != nil {
		t.Fatal(err)
	}
	kem, _ := pair.sec.kem.Bytes()
	for _, held := range []any{pub, sealer, pair.Public()} {
		m := reach(held)
		for name, s := range map[string][]byte{
			"KEM key": kem, "local secret": pair.sec.local.bytes(), "tenant secret": w.tenant.secret.bytes(),
			"state secret": w.tenant.state.bytes(), "fixed secret": w.root.state.fixed.bytes(), "ratchet": w.root.state.ratchet.bytes(),
		} {
			if m.holds(s) {
				t.Errorf("%T holds the %s", held, name)
			}
		}
	}
}

func TestSecretsRedactThemselves(t *testing.T) {
	w := newWorld(t)
	pair := w.day(t, today+1)
	sealer, page := w.page(t)
	leaf, _ := page.Leaf(3)
	c := NewCodec()
	signer, err := NewNodeKey(t.Context(), w.root, event.AllClasses)
	if err != nil {
		t.Fatal(err)
	}
	local := pair.LocalSealer(c)
	var out bytes.Buffer
	stream := c.NewStreamSealer(leaf, testBinding(1), &out)
	sealed, commit := sealStream(t, c, leaf, testBinding(1), []byte("text"), 10)
	reader, err := c.OpenStream(leaf, testBinding(1), commit, bytes.NewReader(sealed), int64(len(sealed)))
	if err != nil {
		t.Fatal(err)
	}
	kem, _ := pair.sec.kem.Bytes()
	secrets := [][]byte{
		w.root.state.fixed.bytes(), w.root.state.ratchet.bytes(), w.tenant.secret.bytes(), w.tenant.state.bytes(), kem, pair.sec.local.bytes(),
		page.nodes[0].key.bytes(), leaf.key.bytes(), signer.key.private.Seed(), local.sec.nonce.bytes(), sealer.stack[0].key.bytes(),
	}
	check := func(how, printed string) {
		t.Helper()
		for i, s := range secrets {
			for _, form := range forms(s[:8]) {
				if strings.Contains(printed, form) {
					t.Errorf("%s prints secret %d: %.200s", how, i, printed)
				}
			}
		}
	}
	verbs := []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%c", "%p", "%z"}
	for _, v := range []any{w.root, w.tenant, pair, page, sealer, leaf, &leaf, signer, local, stream, reader} {
		for _, verb := range verbs {
			printed := fmt.Sprintf(verb, v)
			if printed != redaction && verb != "%p" {
				t.Errorf("%T under %s prints %q", v, verb, printed)
			}
			check(fmt.Sprintf("%T under %s inside", v, verb), fmt.Sprintf(verb, struct{ hidden any }{v}))
			check(fmt.Sprintf("%T under %s in a slice", v, verb), fmt.Sprintf(verb, []any{v}))
		}
		encodes(t, v)
	}
	holder := struct { // fmt does not ask the methods of unexported fields
		root   *Root
		tenant TenantKeys
		pair   DayPair
		leaf   Leaf
		node   NodeKey
		local  LocalSealer
		state  rootState
		node0  node
		nodes  []node
		path   *pagePath
		stack  [pageDepth + 1]node
	}{w.root, *w.tenant, *pair, leaf, *signer, *local, *w.root.state, page.nodes[0], page.nodes, page.path, sealer.stack}
	for _, verb := range verbs {
		check("a struct of them under "+verb, fmt.Sprintf(verb, holder))
	}
}

// encodes fails unless v redacts itself in JSON, as text and in logs.
func encodes(t *testing.T, v any) {
	t.Helper()
	b, err := json.Marshal(map[string]any{"v": v})
	if err != nil || string(b) != `{"v":"[secret]"}` {
		t.Errorf("%T in JSON is %s, %v", v, b, err)
	}
	if b, err := v.(encoding.TextMarshaler).MarshalText(); err != nil || string(b) != redaction {
		t.Errorf("%T as text is %s, %v", v, b, err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "v", v)
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "v", v)
	if strings.Count(log.String(), redaction) != 2 {
		t.Errorf("%T in a log is %s", v, &log)
	}
}

// forms returns how fmt and the encoders might write some bytes.
func forms(b []byte) []string {
	decimals := strings.Trim(fmt.Sprintf("%d", b), "[]")
	return []string{
		string(b), hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b)), decimals,
		strings.ReplaceAll(decimals, " ", ", "), base64.RawStdEncoding.EncodeToString(b[:6]),
		strings.Trim(fmt.Sprintf("%#v", b), "[]byte{}"), strings.Trim(fmt.Sprintf("%x", [8]byte(b)), "[]"),
	}
}
