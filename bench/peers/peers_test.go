package peers

import (
	"context"
	"os"
	"testing"
	"time"

	"holdfast/bench/loadgen"
)

// dir is a directory that Postfix's users can reach, which t.TempDir is not.
func dir(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp("/tmp", "holdfast-postfix-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

func load(addr string, n int) loadgen.Load {
	messages := loadgen.Generate(loadgen.Spec{Seed: 1, Count: 20, Domain: "acme.test", Recipients: 5, FixedSize: 4000})
	return loadgen.Load{Addr: addr, Messages: messages, Count: n, Sessions: 4, Tag: "t"}
}

func TestSinkCounts(t *testing.T) {
	sink, err := StartSink(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Stop()
	r, err := loadgen.Run(t.Context(), load(sink.Addr, 100))
	if err != nil || r.Accepted != 100 {
		t.Fatalf("result %v, %v", r, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := sink.WaitFor(ctx, 100); err != nil {
		t.Error(err)
	}
}

// TestPostfix walks through the life of an instance in the way the benchmarks
// use it: mail is held, released, and all of it arrives; then it is gone.
func TestPostfix(t *testing.T) {
	sink, err := StartSink(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Stop()
	p, err := StartPostfix(t.Context(), dir(t), Instance{Domain: "acme.test", RelayTo: sink.Addr, Hold: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	r, err := loadgen.Run(t.Context(), load(p.Addr, 40))
	if err != nil || r.Accepted != 40 {
		t.Fatalf("result %v, %v", r, err)
	}
	if n, err := p.Held(); n != 40 || err != nil {
		t.Fatalf("%d messages held, %v; want 40", n, err)
	}
	if sink.Messages() != 0 {
		t.Errorf("%d messages delivered while held", sink.Messages())
	}
	if err := p.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := sink.WaitFor(ctx, 40); err != nil {
		t.Error(err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if err := banner(ctx, p.Addr); err == nil {
		t.Error("Postfix still answers after Stop")
	}
}
