package node

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"holdfast/event"
	"holdfast/imapgw"
	"holdfast/projection"
	"holdfast/smtpd"
)

// metrics is what /metrics shows. Counters are the process's own; gauges are
// asked of the folds when they are scraped.
type metrics struct {
	node     *Node
	registry *prometheus.Registry
	accepted *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	wait     prometheus.Histogram
	refused  *prometheus.CounterVec
	conns    *prometheus.GaugeVec
	logins   *prometheus.CounterVec
	append   prometheus.Histogram
	size     prometheus.Histogram
	events   prometheus.Histogram
}

func newMetrics(n *Node) *metrics {
	m := &metrics{node: n, registry: prometheus.NewRegistry()}
	m.accepted = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "holdfast_smtp_accepted_total", Help: "Messages answered with 250."}, []string{"protocol"})
	m.bytes = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "holdfast_smtp_accepted_bytes_total", Help: "Bytes of messages answered with 250."}, []string{"protocol"})
	m.wait = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "holdfast_smtp_answer_seconds", Help: "From the end of a message to its answer.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 17)})
	m.refused = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "holdfast_smtp_refused_total", Help: "Refusals by reason."}, []string{"protocol", "reason"})
	m.conns = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "holdfast_connections", Help: "Open connections."}, []string{"protocol"})
	m.logins = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "holdfast_logins_total", Help: "Logins by protocol and result."}, []string{"protocol", "result"})
	m.append = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "holdfast_append_seconds", Help: "Time to make a segment durable.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 17)})
	m.size = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "holdfast_segment_bytes", Help: "Size of the segments put.",
		Buckets: prometheus.ExponentialBuckets(1024, 4, 9)})
	m.events = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "holdfast_segment_events", Help: "Events in the segments put.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 11)})
	m.registry.MustRegister(m.accepted, m.bytes, m.wait, m.refused, m.conns, m.logins, m.append, m.size, m.events,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), folded{n})
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// segment hears of every segment that this node has put.
func (m *metrics) segment(d time.Duration, events int, bytes int64) {
	m.append.Observe(d.Seconds())
	m.size.Observe(float64(bytes))
	m.events.Observe(float64(events))
}

// smtpObserver counts for one of the SMTP servers.
type smtpObserver struct {
	m        *metrics
	protocol string // smtp or submission
}

func (m *metrics) smtp(mode smtpd.Mode) smtpd.Observer {
	if mode == smtpd.Submission {
		return smtpObserver{m, "submission"}
	}
	return smtpObserver{m, "smtp"}
}

// ConnOpened implements smtpd.Observer.
func (o smtpObserver) ConnOpened() { o.m.conns.WithLabelValues(o.protocol).Inc() }

// ConnClosed implements smtpd.Observer.
func (o smtpObserver) ConnClosed() { o.m.conns.WithLabelValues(o.protocol).Dec() }

// Refused implements smtpd.Observer.
func (o smtpObserver) Refused(r smtpd.Reason) {
	o.m.refused.WithLabelValues(o.protocol, string(r)).Inc()
}

// LoginTried implements smtpd.Observer.
func (o smtpObserver) LoginTried(r smtpd.LoginResult) {
	o.m.logins.WithLabelValues(o.protocol, string(r)).Inc()
}

// Accepted implements smtpd.Observer.
func (o smtpObserver) Accepted(size int64, wait time.Duration) {
	o.m.accepted.WithLabelValues(o.protocol).Inc()
	o.m.bytes.WithLabelValues(o.protocol).Add(float64(size))
	o.m.wait.Observe(wait.Seconds())
}

type imapObserver struct{ m *metrics }

func (m *metrics) imap() imapgw.Observer { return imapObserver{m} }

// Connected implements imapgw.Observer.
func (o imapObserver) Connected(delta int) { o.m.conns.WithLabelValues("imap").Add(float64(delta)) }

// Refused implements imapgw.Observer.
func (o imapObserver) Refused() { o.m.refused.WithLabelValues("imap", "too-many-connections").Inc() }

// LoggedIn implements imapgw.Observer.
func (o imapObserver) LoggedIn(r imapgw.LoginResult) {
	o.m.logins.WithLabelValues("imap", string(r)).Inc()
}

// folded are the gauges that are asked of the folds.
type folded struct{ n *Node }

var (
	descReady     = prometheus.NewDesc("holdfast_ready", "1 when the node has folded what was in the log at its start.", nil, nil)
	descBackup    = prometheus.NewDesc("holdfast_root_key_backed_up", "1 when a backup of the root key was made.", nil, nil)
	descShift     = prometheus.NewDesc("holdfast_test_clock_seconds", "By how much a test has moved the clock: 0 but for tests.", nil, nil)
	descTrouble   = prometheus.NewDesc("holdfast_store_trouble_seconds", "For how long the store has taken nothing of what is appended; 0 while it does.", nil, nil)
	descLag       = prometheus.NewDesc("holdfast_projection_lag_segments", "Segments of the log that a projection has not folded yet.", []string{"projection"}, nil)
	descStopped   = prometheus.NewDesc("holdfast_projection_stopped", "1 when a projection has met an event that it cannot fold.", []string{"projection"}, nil)
	descDisagreed = prometheus.NewDesc("holdfast_projection_disagreements_total", "How often a second fold of the log came to another state than the local database holds; no Base is taken then.", []string{"projection"}, nil)
	descQueue     = prometheus.NewDesc("holdfast_queue_recipients", "Recipients in the queue.", []string{"domain", "state"}, nil)
	descUpstream  = prometheus.NewDesc("holdfast_upstream_state", "1 for the state that a domain's primary is in.", []string{"domain", "state"}, nil)
)

// Describe implements prometheus.Collector.
func (f folded) Describe(c chan<- *prometheus.Desc) {
	for _, d := range append(retentionDescs(), []*prometheus.Desc{descReady, descBackup, descShift, descLag, descStopped, descDisagreed, descTrouble, descQueue, descUpstream, descBalance, descDifference, descStrays}...) {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (f folded) Collect(c chan<- prometheus.Metric) {
	n := f.n
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descReady, truth(n.ready.Load()))
	gauge(descBackup, truth(n.backedUp()))
	gauge(descShift, n.cfg.Shift.Seconds())
	if n.runner == nil {
		return
	}
	trouble := 0.0
	if since, what := n.storeTrouble(); what != "" {
		trouble = time.Since(since).Seconds()
	}
	gauge(descTrouble, trouble)
	for _, p := range n.runner.Status() {
		gauge(descLag, float64(lag(p)), p.Name)
		gauge(descStopped, truth(p.Stopped != nil), p.Name)
		c <- prometheus.MustNewConstMetric(descDisagreed, prometheus.CounterValue, float64(p.Disagreed), p.Name)
	}
	for _, d := range n.directory.Domains() {
		st, err := n.delivery.Domain(context.Background(), d.Tenant, d.Name)
		if err != nil {
			continue // a stopped projection is told above
		}
		gauge(descQueue, float64(st.Queued), d.Name, "due")
		gauge(descQueue, float64(st.Held), d.Name, "held")
		gauge(descQueue, float64(st.Out), d.Name, "outbound")
		for _, h := range []event.Health{event.HealthUp, event.HealthSuspect, event.HealthDown, event.HealthRecovering} {
			gauge(descUpstream, truth(st.State == h), d.Name, h.String())
		}
	}
	n.collectBalance(gauge)
	n.collectRetention(gauge)
}

// lag is how many segments a projection is behind, in all partitions.
func lag(p projection.Status) (n uint64) {
	for _, part := range p.Partitions {
		n += part.Lag
	}
	return n
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
