package random_test

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// trace is what has happened in a run, with the time since its beginning.
type trace struct {
	verbosity int
	begin     time.Time

	mu    sync.Mutex
	lines []string
}

func newTrace(verbosity int) *trace { return &trace{verbosity: verbosity, begin: time.Now()} }

func (tr *trace) add(format string, args ...any) {
	line := fmt.Sprintf("%9.3fs  %s", time.Since(tr.begin).Seconds(), fmt.Sprintf(format, args...))
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.lines = append(tr.lines, line)
}

func (tr *trace) String() string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return strings.Join(tr.lines, "\n")
}

// logger writes to the trace what the driver and the simulator log; a verbosity below zero leaves it out.
func (tr *trace) logger() logr.Logger {
	if tr.verbosity < 0 {
		return logr.Discard()
	}
	return funcr.New(func(prefix, args string) { tr.add("      | %s %s", prefix, args) }, funcr.Options{Verbosity: tr.verbosity})
}

// record adds a record as it was written, on a line.
func (tr *trace) record(v *volume.Volume) {
	if tr.verbosity < 0 {
		return
	}
	var b strings.Builder
	for _, r := range v.Replicas {
		fmt.Fprintf(&b, " %s@%s:%s", r.ID[:4], r.Node, r.State)
	}
	for _, a := range []struct {
		what string
		*volume.Assembly
	}{{"runs", v.Assembly}, {"standby", v.Standby}} {
		if a.Assembly == nil {
			continue
		}
		fmt.Fprintf(&b, "; %s %d on %s of", a.what, a.Number, a.RaidHost)
		for _, leg := range a.Legs {
			b.WriteString(" " + leg[:4])
		}
		for what, is := range map[string]bool{"held": a.Held, "not running": !a.Running, "stopping": a.Stopping} {
			if is {
				b.WriteString(", " + what)
			}
		}
	}
	for _, a := range v.Retired {
		fmt.Fprintf(&b, "; retired %d on %s", a.Number, a.RaidHost)
	}
	tr.add("      > %s is %s, owner %q:%s", v.Name, v.Phase, v.Owner, &b)
}
