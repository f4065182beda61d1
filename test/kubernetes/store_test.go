// Package kubernetes_test holds what is tested against a real API server and etcd, built from their Go modules by "make kube-binaries".
package kubernetes_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/storetest"
)

// binaries is where "make kube-binaries" puts what it builds.
const binaries = "../../.cache/kubernetes"

// server starts an API server with the CRDs, for the test.
func server(t *testing.T) *rest.Config {
	t.Helper()
	return environment(t, func(*envtest.Environment) {}).Config
}

// environment starts an API server with the CRDs, set up further by configure, for the test.
func environment(t *testing.T, configure func(*envtest.Environment)) *envtest.Environment {
	t.Helper()
	if _, err := os.Stat(filepath.Join(binaries, "kube-apiserver")); err != nil {
		t.Skip("there is no kube-apiserver in .cache/kubernetes: make kube-binaries builds it")
	}
	e := &envtest.Environment{
		BinaryAssetsDirectory: binaries, CRDDirectoryPaths: []string{"../../deploy/crds"}, ErrorIfCRDPathMissing: true,
		ControlPlaneStartTimeout: 5 * time.Minute, ControlPlaneStopTimeout: 3 * time.Minute, // it lets its watches end
	}
	configure(e)
	config, err := e.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	})
	config.QPS = -1
	return e
}

// empty returns the store of an API server, in which nothing is left from other tests.
func empty(t *testing.T, config *rest.Config, owner string) *kube.Store {
	t.Helper()
	s, err := kube.Open(t.Context(), config, owner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	t.Cleanup(func() { clear(t, s) })
	clear(t, s)
	return s
}

func clear(t *testing.T, s *kube.Store) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	volumes, err := s.List(ctx, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range volumes {
		if err := s.Delete(ctx, v); err != nil {
			t.Fatal(err)
		}
	}
	snapshots, err := s.ListSnapshots(ctx, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, sn := range snapshots {
		if err := s.DeleteSnapshot(ctx, sn); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range []client.Object{&v1alpha1.Host{}, &v1alpha1.SPDKNode{}} {
		if err := s.Client().DeleteAllOf(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStoreOnARealAPIServer(t *testing.T) {
	config := server(t)
	t.Run("Suite", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) volume.Store { return empty(t, config, "") })
	})
	for name, test := range map[string]func(*testing.T, *rest.Config){
		"ShrinkingAndAnotherUUIDAreRefused": shrinkingAndAnotherUUIDAreRefused,
		"RecordOutlivesADeletionByHand":     recordOutlivesADeletionByHand,
		"UnknownFieldIsRefused":             unknownFieldIsRefused,
		"StatusAndLabelsOutliveAWrite":      statusAndLabelsOutliveAWrite,
		"WishesComeByTheWatch":              wishesComeByTheWatch,
	} {
		t.Run(name, func(t *testing.T) { test(t, config) })
	}
}

func shrinkingAndAnotherUUIDAreRefused(t *testing.T, config *rest.Config) {
	s := empty(t, config, "")
	v := storetest.Volume("one")
	must(t, s.Create(t.Context(), v))
	for what, change := range map[string]func(*volume.Volume){
		"never shrinks":            func(v *volume.Volume) { v.SizeBytes /= 2 },
		"keeps its UUID":           func(v *volume.Volume) { v.UUID[0]++ },
		"spec.replicas[0].state":   func(v *volume.Volume) { v.Replicas[0].State = "well" },
		"spec.parameters.replicas": func(v *volume.Volume) { v.Parameters.Replicas = 9 },
	} {
		bad := v.Clone()
		change(bad)
		if err := s.Update(t.Context(), bad); err == nil || errors.Is(err, volume.ErrConflict) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

func recordOutlivesADeletionByHand(t *testing.T, config *rest.Config) {
	s := empty(t, config, "")
	v := storetest.Volume("one")
	must(t, s.Create(t.Context(), v))
	must(t, s.Client().Delete(t.Context(), &v1alpha1.Volume{ObjectMeta: metav1.ObjectMeta{Name: v.ID}}))
	v, err := s.Get(t.Context(), v.ID)
	must(t, err)
	v.Owner = "n"
	must(t, s.Update(t.Context(), v))
	must(t, s.Delete(t.Context(), v))
	if _, err := s.Get(t.Context(), v.ID); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func unknownFieldIsRefused(t *testing.T, config *rest.Config) {
	s := empty(t, config, "")
	v := storetest.Volume("one")
	must(t, s.Create(t.Context(), v))
	body := []byte(`[{"op":"add","path":"/spec/ofAnotherVersion","value":1}]`)
	err := s.Client().Patch(t.Context(), &v1alpha1.Volume{ObjectMeta: metav1.ObjectMeta{Name: v.ID}}, client.RawPatch("application/json-patch+json", body))
	if err == nil || !strings.Contains(err.Error(), "ofAnotherVersion") {
		t.Errorf("got %v", err)
	}
}

func statusAndLabelsOutliveAWrite(t *testing.T, config *rest.Config) {
	s := empty(t, config, "")
	v := storetest.Volume("one")
	must(t, s.Create(t.Context(), v))
	var o v1alpha1.Volume
	get := func() { must(t, s.Client().Get(t.Context(), client.ObjectKey{Name: v.ID}, &o)) }
	get()
	o.Labels = map[string]string{"team": "shop"}
	must(t, s.Client().Update(t.Context(), &o))
	o.Status.State = "healthy"
	meta.SetStatusCondition(&o.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionHealthy, Status: metav1.ConditionTrue, Reason: "Healthy"})
	must(t, s.Client().Status().Update(t.Context(), &o))
	_, err := volume.Modify(t.Context(), s, v.ID, func(v *volume.Volume) (bool, error) {
		v.Owner = "n"
		return true, nil
	})
	must(t, err)
	if get(); o.Labels["team"] != "shop" || o.Status.State != "healthy" || len(o.Status.Conditions) != 1 || o.Spec.Owner != "n" {
		t.Errorf("after the write there is %+v with status %+v", o.ObjectMeta, o.Status)
	}
}

// wishesOnceThere reads wishes until there are as many: a watch follows a write after a moment.
func wishesOnceThere(t *testing.T, s *kube.Store, count int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		ids, err := s.Wishes(ctx, "n")
		if err == nil && len(ids) == count {
			return ids
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%d wishes were to come; there are %v (%v)", count, ids, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func wishesComeByTheWatch(t *testing.T, config *rest.Config) {
	s := empty(t, config, "n")
	wishesOnceThere(t, s, 0)
	mine, other := storetest.Volume("mine"), storetest.Volume("other")
	mine.Owner, other.Owner = "n", "m"
	for _, v := range []*volume.Volume{mine, other} {
		v.Snapshot = &volume.SnapshotWish{Snapshot: volume.SnapshotIDFor("s"), UUID: v.UUID, State: volume.WishWanted}
		must(t, s.Create(t.Context(), v))
	}
	if ids := wishesOnceThere(t, s, 1); !slices.Equal(ids, []string{mine.ID}) {
		t.Errorf("wanted is %v", ids)
	}
	mine.Owner = ""
	must(t, s.Update(t.Context(), mine))
	wishesOnceThere(t, s, 0)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
