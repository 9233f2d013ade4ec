package s3

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"holdfast/objstore"
)

// TestAStoreThatIsAway is told apart from one that answers and does not like the
// question: only the first is waited for.
func TestAStoreThatIsAway(t *testing.T) {
	open := func(url string) error {
		b, err := Open(t.Context(), Config{Endpoint: url, Bucket: "holdfast", AccessKey: "access", SecretKey: "hush-hush"})
		if err == nil {
			b.Close()
		}
		return err
	}
	for status, want := range map[int]bool{500: true, 503: true, 429: true, 408: true, 400: false, 401: false, 501: false, 507: false} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			handler := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
			server := httptest.NewServer(http.HandlerFunc(handler))
			defer server.Close()
			if err := open(server.URL); err == nil || errors.Is(err, objstore.ErrUnavailable) != want {
				t.Errorf("open: %v, want away %v", err, want)
			}
			b := pretend(t, defaultLimits(), handler)
			_, _, err := b.Get(t.Context(), "k", 0, -1)
			if err == nil || errors.Is(err, objstore.ErrUnavailable) != want {
				t.Errorf("get: %v, want away %v", err, want)
			}
			for _, err := range b.List(t.Context(), "", "") {
				if err == nil || errors.Is(err, objstore.ErrUnavailable) != want {
					t.Errorf("list: %v, want away %v", err, want)
				}
			}
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	l.Close() // nobody is there
	if err := open(url); !errors.Is(err, objstore.ErrUnavailable) {
		t.Errorf("open with nobody there: %v", err)
	}
	b := connect(t, defaultLimits(), url)
	err = put(t.Context(), b, "k", "v", objstore.PutOptions{})
	if !errors.Is(err, objstore.ErrUnavailable) || errors.Is(err, objstore.ErrAmbiguous) {
		t.Errorf("put with nobody there: %v", err)
	}
}
