package world

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"time"

	"holdfast/internal/turn"
	"holdfast/node"
)

// admin is the administrator of all nodes.
type admin struct{ inhabitant }

func newAdmin(w *World) *admin { return &admin{w.inhabitant("admin")} }

func (a *admin) run(ctx context.Context) {
	for range a.world.cfg.Size.Orders {
		if !a.pause(ctx, a.between(10*time.Second, 100*time.Second)) {
			return
		}
		if !a.misbehaves() {
			break
		}
		switch a.rng.IntN(3) {
		case 0:
			mode := pick(&a.inhabitant, []string{"on", "off", "auto"})
			a.ask(ctx, "/failover", node.FailoverRequest{Domain: pick(&a.inhabitant, []string{acme, annex, beta}), Mode: mode})
		case 1:
			a.redeliver(ctx, "delivered", pick(&a.inhabitant, []string{"", residents[0]}))
		default:
			a.redeliver(ctx, "held", "")
		}
	}
	for a.misbehaves() {
		if !a.pause(ctx, a.between(2*time.Second, 6*time.Second)) {
			return
		}
	}
	a.tidyUp(ctx)
}

// tidyUp lets the detector decide again, and sends on what was held.
func (a *admin) tidyUp(ctx context.Context) {
	for _, d := range []string{acme, annex, beta} {
		for !a.ask(ctx, "/failover", node.FailoverRequest{Domain: d, Mode: "auto"}) {
			if !a.pause(ctx, a.between(time.Second, 3*time.Second)) {
				return
			}
		}
	}
	for quiet := 0; quiet < 3; {
		if !a.pause(ctx, a.between(20*time.Second, 40*time.Second)) {
			return
		}
		switch held, ok := a.held(ctx); {
		case !ok:
		case held == 0:
			quiet++
		default:
			quiet = 0
			a.redeliver(ctx, "held", "")
		}
	}
}

// held counts what waits for the administrator.
func (a *admin) held(ctx context.Context) (n int64, ok bool) {
	var s node.Status
	if !a.call(ctx, http.MethodGet, "/status", nil, &s) {
		return 0, false
	}
	for _, d := range s.Domains {
		n += d.Held
	}
	return n, s.Ready
}

func (a *admin) redeliver(ctx context.Context, state, to string) bool {
	return a.ask(ctx, "/redeliver", node.RedeliverRequest{Selectors: node.Selectors{State: state, Limit: 1 + a.rng.IntN(5)}, To: to})
}

func (a *admin) ask(ctx context.Context, path string, in any) bool {
	return a.call(ctx, http.MethodPost, path, in, nil)
}

// call asks some node that is up. It reports whether the answer was good.
func (a *admin) call(ctx context.Context, method, path string, in, out any) bool {
	h := a.world.cfg.Admin(a.rng.IntN(len(a.world.cfg.Nodes)))
	if h == nil {
		return false
	}
	body, err := json.Marshal(in)
	if err != nil {
		panic("internal error: " + err.Error())
	}
	ctx, cancel := context.WithTimeout(turn.Named(ctx, "asks"), time.Minute+time.Duration(a.rng.IntN(1e9)))
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, method, path, bytes.NewReader(body))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	turn.Take(ctx, "has an answer")
	return w.Code == http.StatusOK && (out == nil || json.Unmarshal(w.Body.Bytes(), out) == nil)
}
