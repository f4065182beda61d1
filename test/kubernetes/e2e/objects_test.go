//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kubernetes/cluster"
)

// scene is a cluster in which a test has objects, in a namespace of its own.
type scene struct {
	t         *testing.T
	c         *cluster.Cluster
	namespace string
}

// newScene makes a namespace. A test that succeeds leaves nothing: neither objects nor lvols.
func newScene(t *testing.T, namespace string) *scene {
	t.Helper()
	s := &scene{t: t, c: run(t), namespace: namespace}
	_, err := s.c.Kubectl(t.Context(), "", "create", "namespace", namespace)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		for _, args := range [][]string{{"delete", "statefulsets,pods", "--all", "-n", namespace}, {"delete", "namespace", namespace}} {
			if _, err := s.c.Kubectl(ctx, "", args...); err != nil {
				t.Error(err)
			}
		}
		if _, err := s.c.Await(ctx, func(out string) bool { return out == "" }, "get", "volumes.csi.holdfast.dev,snapshots.csi.holdfast.dev", "-o", "name"); err != nil {
			t.Error(err)
		}
		if err := s.c.SPDK.Leftovers(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *scene) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.c.Kubectl(s.t.Context(), "", append([]string{"-n", s.namespace}, args...)...)
	must(s.t, err)
	return out
}

func (s *scene) apply(manifest string) {
	s.t.Helper()
	_, err := s.c.Kubectl(s.t.Context(), manifest, "-n", s.namespace, "apply", "--validate=strict", "-f", "-")
	must(s.t, err)
}

// await waits until what kubectl prints is right.
func (s *scene) await(done func(string) bool, args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	out, err := s.c.Await(ctx, done, append([]string{"-n", s.namespace}, args...)...)
	must(s.t, err)
	return out
}

// is is for output that is one value.
func is(value string) func(string) bool { return func(out string) bool { return out == value } }

// claim makes a claim of 1 GiB, of the mode Filesystem or Block, from a snapshot unless that is "".
func (s *scene) claim(name, mode, snapshot string) {
	s.t.Helper()
	source := ""
	if snapshot != "" {
		source = "dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: " + snapshot + "}"
	}
	s.apply(fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s}
spec:
  storageClassName: holdfast
  accessModes: [ReadWriteOnce]
  volumeMode: %s
  resources: {requests: {storage: 1Gi}}
  %s
`, name, mode, source))
}

// podSpec is that of a pod that writes to a volume.
const podSpec = `
  terminationGracePeriodSeconds: 5
  restartPolicy: %s
  containers:
    - name: writer
      image: ` + cluster.WriterImage + `
      imagePullPolicy: Never
      args: [%s]
      %s
`

const (
	dataFile   = "/data/records"
	dataDevice = "/dev/data"
)

// writerPod makes a pod that writes to the claim, and is not started again when that fails.
func (s *scene) writerPod(name, claim, mode string) {
	s.t.Helper()
	path, mount := dataFile, "volumeMounts: [{name: data, mountPath: /data}]"
	if mode == "Block" {
		path, mount = dataDevice, "volumeDevices: [{name: data, devicePath: "+dataDevice+"}]"
	}
	s.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec:" + fmt.Sprintf(podSpec, "Never", path, mount) +
		"  volumes: [{name: data, persistentVolumeClaim: {claimName: " + claim + "}}]\n")
}

// progress is what a writer says of itself.
type progress struct {
	found, written int
	longest        time.Duration
}

var progressLine = regexp.MustCompile(`found (\d+) written (\d+) longest (\d+)ms`)

// progress waits until the pod's writer has written as many records.
func (s *scene) progress(pod string, written int) progress {
	s.t.Helper()
	var p progress
	s.await(func(out string) bool {
		if strings.Contains(out, "failed") {
			s.t.Fatalf("the writer in pod %s: %s", pod, out)
		}
		m := progressLine.FindStringSubmatch(out)
		if m == nil {
			return false
		}
		var numbers [3]int
		for i := range numbers {
			numbers[i], _ = strconv.Atoi(m[i+1]) // digits, says the expression
		}
		p = progress{found: numbers[0], written: numbers[1], longest: time.Duration(numbers[2]) * time.Millisecond}
		return p.written >= written
	}, "logs", pod, "--tail=1")
	return p
}

// goesOn waits until the pod's writer has written some more.
func (s *scene) goesOn(pod string) progress {
	s.t.Helper()
	return s.progress(pod, s.progress(pod, 0).written+20)
}

// volume returns the ID of a claim's volume.
func (s *scene) volume(claim string) string {
	s.t.Helper()
	name := s.await(func(out string) bool { return out != "" }, "get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
	return s.kubectl("get", "pv", name, "-o", "jsonpath={.spec.csi.volumeHandle}")
}

// awaitHealthy waits until kubectl shows the volume as healthy, or as not.
func (s *scene) awaitHealthy(volume string, healthy bool) {
	s.t.Helper()
	begin := time.Now()
	value := map[bool]string{true: "True", false: "False"}[healthy]
	s.await(is(value), "get", "volumes.csi.holdfast.dev", volume, "-o", `jsonpath={.status.conditions[?(@.type=="Healthy")].status}`)
	s.t.Logf("after %.0f s kubectl shows:\n%s", time.Since(begin).Seconds(), s.kubectl("get", "volumes.csi.holdfast.dev", volume))
}
