//go:build e2e

package e2e

import (
	"context"
	"testing"
	"time"
)

// A worker loses its power for good while its pod writes. An administrator says so by the taint that is for it, upon which Kubernetes deletes
// the pod and detaches its volume by force. The worker is not there for further tests.
func TestPodOfALostNodeIsStartedElsewhere(t *testing.T) {
	s := newScene(t, "node-lost")
	s.claim("data", "Filesystem", "")
	s.writerPod("first", "data", "Filesystem")
	s.progress("first", 50)
	volume := s.volume("data")
	lost := s.c.Workers[0]
	_, err := s.c.AddWorker(t.Context())
	must(t, err)
	before := s.goesOn("first")
	must(t, lost.Lose())
	begin := time.Now()
	_, err = s.c.Kubectl(t.Context(), "", "taint", "nodes", lost.Name, "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute")
	must(t, err)
	t.Cleanup(func() {
		_, err := s.c.Kubectl(context.WithoutCancel(t.Context()), "", "delete", "node", lost.Name)
		must(t, err)
	})
	s.writerPod("second", "data", "Filesystem")
	if p := s.goesOn("second"); p.found < before.written {
		t.Errorf("of %d records and more, the second pod has found %d", before.written, p.found)
	}
	t.Logf("it goes on elsewhere %.0f s after the node was lost", time.Since(begin).Seconds())
	s.awaitHealthy(volume, true)
}
