package node

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"time"
)

// serveWeb opens the web port: health checks, metrics and the status page. It
// shows nothing that is derived from mail.
func (r *run) serveWeb(ctx context.Context) error {
	n := r.node
	if n.cfg.Web.Listen == "" || !n.cfg.Has(RoleWeb) {
		return nil
	}
	srv := &http.Server{
		Handler: n.webHandler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
	r.stops = append(r.stops, srv.Shutdown)
	return r.listen(ctx, "web", []string{n.cfg.Web.Listen}, func(_ context.Context, l net.Listener) error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
}

// unready is how long the store may take nothing before the node counts as not
// ready: by then senders hear 451, and another node may be better off.
const unready = 30 * time.Second

// storeTrouble says since when the store takes nothing that is appended, and
// why; nothing while all is well.
func (n *Node) storeTrouble() (since time.Time, what string) {
	t := n.log.Trouble()
	if t == nil {
		return time.Time{}, ""
	}
	what = "it does not answer"
	if t.Err != nil {
		what = t.Err.Error()
	}
	return t.Since.UTC(), what
}

func (n *Node) webHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !n.ready.Load() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		if since, what := n.storeTrouble(); what != "" && time.Since(since) > unready {
			http.Error(w, "not ready: storage takes nothing", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.Handle("GET /metrics", n.metrics.handler())
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		if err := statusPage.Execute(w, n.status(r.Context(), n.recentSheet, n.recentRetention)); err != nil {
			n.logger.Debug("status page", "error", err)
		}
	})
	return mux
}

var statusPage = template.Must(template.New("status").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="5">
<title>Holdfast</title>
<style>
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .25rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid #8884; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.d { white-space: nowrap; } tr.sum td { font-weight: 600; } .note { font-size: .85rem; }
.warn { border-left: .3rem solid #c60; padding: .4rem .8rem; margin: .6rem 0; background: #c601; }
.up { color: #080; } .down { color: #c00; font-weight: 600; } .suspect, .recovering { color: #b60; font-weight: 600; }
@media (prefers-color-scheme: dark) { .up { color: #6d6; } .down { color: #f77; } .suspect, .recovering { color: #fb6; } }
</style>
<h1>Holdfast {{.Version}}</h1>
<p>{{if .Ready}}Ready{{else}}Not ready yet: reading the log{{end}}, running since {{.Since.Format "2006-01-02 15:04:05"}} UTC.</p>
{{range .Warnings}}<p class="warn" role="alert">{{.}}</p>{{end}}
<h2>Domains</h2>
{{if .Domains}}<table>
<tr><th>Domain<th>Primary<th>Since (UTC)<th>Override<th>Users<th class="n">Queued<th class="n">Held in queue<th class="n">Outbound</tr>
{{range .Domains}}<tr><td>{{.Name}}<td class="{{.State}}">{{.State}}<td>{{with .Since}}{{.Format "2006-01-02 15:04:05"}}{{else}}–{{end}}<td>{{.Failover}}<td>{{if .Open}}admitted{{else}}–{{end}}<td class="n">{{.Queued}}<td class="n">{{.Held}}<td class="n">{{.Outbound}}</tr>
{{end}}</table>{{else}}<p>None yet: <code>holdfast apply domains.toml</code></p>{{end}}
<h2>Log</h2>
<table>
<tr><th>Store<td>{{.Store.URL}}{{if .Store.ReadOnly}} (read-only){{end}}</tr>
<tr><th>Log<td>{{.Log.ID}}</tr>
{{with .Balance}}<tr><th>Recipients<td>{{with .Total}}{{.Accepted}} accepted = {{.Delivered}} delivered + {{.Due}} due + {{.Held}} held + {{.Bounced}} bounced + {{.Expired}} expired + {{.Erased}} erased{{end}}{{if not .Balanced}}: not balanced{{end}}</tr>
{{end}}<tr><th>Segments<td>{{range $i, $t := .Log.Tails}}{{if $i}} · {{end}}{{$t}}{{end}}</tr>
</table>
{{with .Retention}}<h2>Kept mail</h2>
{{if .Tenants}}<table>
<tr><th>Domain<th>Tenant<th class="n">Messages<th class="n">Bytes<th>Oldest day<th>Next expiry (UTC)<th class="n">Past its day<th class="n">Under hold<th class="n">Erased</tr>
{{range .Tenants}}{{$t := .}}{{range .Domains}}<tr><td>{{.Name}}<td>{{$t.Tenant}}{{template "kept" .MailKept}}</tr>
{{end}}{{if .Several}}<tr class="sum"><td>all<td>{{.Tenant}}{{template "kept" .MailKept}}</tr>
{{end}}{{end}}</table>
<p class="note">Mail counts for the domain of each recipient and of the user who sent it, so that a tenant may have less than its domains together.</p>{{end}}
<table>
<tr><th>Readable<td>{{with .ReadableFrom}}what expires on {{.}} or later{{else}}everything{{end}}</tr>
<tr><th>Removed<td>{{.Removed.Objects}} objects, {{.Removed.Bytes}} bytes{{if .Removed.Locked}}; {{.Removed.Locked}} locked by the store{{end}}</tr>
{{range .Tenants}}{{if .Holds}}<tr><th>Legal holds<td>{{.Holds}} on mail of {{.Tenant}}</tr>
{{end}}{{end}}{{with .Bucket}}<tr><th>Bucket<td>{{.Objects}} objects, {{.Bytes}} bytes at {{.At.Format "2006-01-02 15:04"}}; a rebuild reads {{.Rebuild.Objects}} objects, {{.Rebuild.Bytes}} bytes</tr>
{{end}}</table>
{{end}}<h2>Projections</h2>
<table><tr><th>Name<th class="n">Version<th class="n">Behind (segments)<th>State</tr>
{{range .Projections}}<tr><td>{{.Name}}<td class="n">{{.Version}}<td class="n">{{.Lag}}<td>{{if .Stopped}}stopped at {{.StoppedAt}}{{else if .Rebuilding}}rebuilding{{else if .Trouble}}{{.Trouble}}{{else}}in step{{end}}</tr>
{{end}}</table>
</html>
{{define "kept"}}<td class="n">{{.Messages}}<td class="n">{{.Bytes}}<td class="d">{{with .Oldest}}{{.}}{{else}}–{{end}}<td class="d">{{with .NextExpiry}}{{.Format "2006-01-02 15:04"}}{{else}}–{{end}}<td class="n">{{.PastDay}}<td class="n">{{.UnderHold}}<td class="n">{{.Erased}}{{end}}`))
