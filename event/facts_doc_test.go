package event

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// TestFactsAreDocumented compares docs/format-facts.md, from which readers in
// other languages are written, with the facts.
func TestFactsAreDocumented(t *testing.T) {
	raw, err := os.ReadFile("../docs/format-facts.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, s := range strings.Split(string(raw), "\n### ")[1:] {
		title, text, _ := strings.Cut(s, "\n")
		text, _, _ = strings.Cut(text, "\n## ")
		sections[title] = text
	}
	for _, f := range everyFact() {
		typ := reflect.TypeOf(f).Elem()
		title := fmt.Sprintf("%d %s", f.Kind(), typ.Name())
		text, ok := sections[title]
		if !ok {
			t.Errorf("there is no section %q", title)
			continue
		}
		delete(sections, title)
		own, meta, _ := strings.Cut(text, "\nMetadata:\n")
		wantRows(t, title, own, typ)
		m, ok := f.(withMeta)
		if ok {
			wantRows(t, title+", metadata", meta, reflect.TypeOf(m.metaPart()).Elem().Elem())
		} else if meta != "" {
			t.Errorf("%s has no metadata", title)
		}
	}
	for title := range sections {
		t.Errorf("%q is no fact", title)
	}
}

// wantRows compares a table with the fields of a struct.
func wantRows(t *testing.T, title, text string, typ reflect.Type) {
	t.Helper()
	var want []string
	for i := range typ.NumField() {
		key, _, _ := strings.Cut(typ.Field(i).Tag.Get("cbor"), ",")
		if key != "-" {
			want = append(want, fmt.Sprintf("| %s | %s |", key, typ.Field(i).Name))
		}
	}
	var got []string
	for line := range strings.Lines(text) {
		if cells := strings.Split(line, "|"); len(cells) > 3 && strings.TrimSpace(cells[1]) != "Key" && !strings.HasPrefix(line, "|-") {
			got = append(got, fmt.Sprintf("|%s|%s|", cells[1], cells[2]))
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s is documented as\n%v, want\n%v", title, got, want)
	}
	for i := range typ.NumField() {
		wantNested(t, title, text, typ.Field(i))
	}
}

// wantNested looks for the keys of maps in maps in the row of the field.
func wantNested(t *testing.T, title, text string, f reflect.StructField) {
	t.Helper()
	typ := f.Type
	for typ.Kind() == reflect.Slice || typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || typ.NumField() == 0 || f.Tag.Get("cbor") == "-" {
		return
	}
	for line := range strings.Lines(text) {
		if !strings.Contains(line, " | "+f.Name+" | ") || !strings.Contains(line, "map]") {
			continue
		}
		for i := range typ.NumField() {
			if key, _, _ := strings.Cut(typ.Field(i).Tag.Get("cbor"), ","); !strings.Contains(line, " "+key+" ") {
				t.Errorf("%s, %s: key %s (%s) is not documented", title, f.Name, key, typ.Field(i).Name)
			}
		}
	}
}
