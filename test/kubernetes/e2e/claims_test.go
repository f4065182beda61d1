//go:build e2e

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

func TestDataOutlivesThePod(t *testing.T) {
	s := newScene(t, "outlives")
	s.claim("data", "Filesystem", "")
	s.writerPod("first", "data", "Filesystem")
	s.progress("first", 50)
	s.kubectl("delete", "pod", "first")
	s.writerPod("second", "data", "Filesystem")
	if p := s.goesOn("second"); p.found < 50 {
		t.Errorf("of 50 records and more, the second pod has found %d", p.found)
	}
}

func TestRawBlockVolume(t *testing.T) {
	s := newScene(t, "block")
	s.claim("data", "Block", "")
	s.writerPod("first", "data", "Block")
	s.progress("first", 50)
	s.kubectl("delete", "pod", "first")
	s.writerPod("second", "data", "Block")
	if p := s.goesOn("second"); p.found < 50 {
		t.Errorf("of 50 records and more, the second pod has found %d", p.found)
	}
	if size := s.kubectl("exec", "second", "--", "blockdev", "--getsize64", dataDevice); strings.TrimSpace(size) != strconv.Itoa(1<<30) {
		t.Errorf("the device has %s bytes", size)
	}
}

func TestClaimGrowsWhileAPodWrites(t *testing.T) {
	s := newScene(t, "grows")
	s.claim("data", "Filesystem", "")
	s.writerPod("writer", "data", "Filesystem")
	s.progress("writer", 20)
	s.kubectl("patch", "pvc", "data", "-p", `{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`)
	s.await(is("2Gi"), "get", "pvc", "data", "-o", "jsonpath={.status.capacity.storage}")
	s.goesOn("writer")
	out := s.kubectl("exec", "writer", "--", "stat", "-f", "-c", "%b %S", "/data")
	var blocks, size int64
	if _, err := fmt.Sscan(out, &blocks, &size); err != nil || blocks*size < 17<<26 {
		t.Errorf("the file system has %s blocks and bytes of each, of 2 GiB (%v)", out, err)
	}
}

func TestSnapshotIsRestored(t *testing.T) {
	s := newScene(t, "restored")
	s.claim("data", "Filesystem", "")
	s.writerPod("writer", "data", "Filesystem")
	before := s.progress("writer", 50)
	s.apply(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: snapshot}
spec: {volumeSnapshotClassName: holdfast, source: {persistentVolumeClaimName: data}}
`)
	s.await(is("true"), "get", "volumesnapshot", "snapshot", "-o", "jsonpath={.status.readyToUse}")
	after := s.goesOn("writer")
	s.claim("copy", "Filesystem", "snapshot")
	s.writerPod("reader", "copy", "Filesystem")
	if p := s.goesOn("reader"); p.found < before.written || p.found > after.written {
		t.Errorf("the copy has records up to %d; up to %d were there before the snapshot, up to %d after it", p.found, before.written, after.written)
	}
	s.kubectl("delete", "pod", "writer", "reader")
	s.kubectl("delete", "pvc", "data", "copy")
	s.kubectl("delete", "volumesnapshot", "snapshot")
}

func TestStatefulSetOfThree(t *testing.T) {
	s := newScene(t, "stateful")
	s.apply(`
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: set}
spec:
  serviceName: set
  replicas: 3
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: set}}
  template:
    metadata: {labels: {app: set}}
    spec:` + strings.ReplaceAll(fmt.Sprintf(podSpec, "Always", dataFile, "volumeMounts: [{name: data, mountPath: /data}]"), "\n", "\n    ") + `
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {storageClassName: holdfast, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`)
	const replicas = 3
	name := func(i int) string { return fmt.Sprintf("set-%d", i) }
	for i := range replicas {
		s.progress(name(i), 20)
	}
	uid := func(i int) string { return s.kubectl("get", "pod", name(i), "-o", "jsonpath={.metadata.uid}") }
	var before [replicas]string
	for i := range before {
		before[i] = uid(i)
	}
	s.kubectl("delete", "pod", "--selector", "app=set")
	for i := range replicas {
		s.await(func(out string) bool { return out != "" && out != before[i] }, "get", "pod", name(i), "-o", "jsonpath={.metadata.uid}")
		if p := s.goesOn(name(i)); p.found < 20 {
			t.Errorf("%s has found %d records of 20 and more", name(i), p.found)
		}
	}
}
