// Package metrics owns what a process tells Prometheus: its metrics, the registry that has them, and the listener that serves them.
// docs/metrics.md lists them all.
//
// What happens is counted when it happens; how things are is read from memory when it is asked for, so that nothing is computed between
// two scrapes. Label values are bounded by what the configuration, the CSI specification and this program name; the only exception, the
// volumes that are staged on a node, says so.
package metrics

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

const namespace = "holdfast"

// New returns the registry of a process, with what every process tells: its build, the Go runtime and the process itself.
func New(version string) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	registry.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// describe returns the description of a metric that a collector makes when it is asked.
func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

// sink sends gauges to a registry that collects.
type sink chan<- prometheus.Metric

func (s sink) gauge(desc *prometheus.Desc, value float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

func (s sink) flag(desc *prometheus.Desc, on bool, labels ...string) {
	value := 0.0
	if on {
		value = 1
	}
	s.gauge(desc, value, labels...)
}
