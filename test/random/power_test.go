package random_test

import (
	"slices"

	"github.com/holdfast-csi/holdfast/spdk/sim"
)

// machineLost has a machine without power that is both SPDK node and host. Other nodes are just killed.
func (fs *faults) machineLost(n *sim.Node) *fault {
	f, i := fs.killed(n), slices.IndexFunc(fs.w.hosts, func(h *host) bool { return h.name == hostOf[n.Name()] })
	if i < 0 {
		return f
	}
	h, start := fs.w.hosts[i], f.end
	f.what, f.service = "the machine of "+n.Name()+" and "+h.name+" is lost", h
	f.begin = func() { n.Kill(); h.losePower() }
	f.end = func() { start(); h.boot() }
	return f
}

// losePower ends a machine: nothing is attached or mounted any more, and what was under way is in doubt.
func (h *host) losePower() {
	h.w.trace.add("%s loses power", h.name)
	h.stop()
	h.machine.Close()
	for _, v := range h.w.volumes {
		if a := v.on(h.name); a != nil {
			a.losePower()
		}
	}
}
