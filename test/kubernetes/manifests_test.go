package kubernetes_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// namespace is where the chart is installed by its golden renders.
const namespace = "holdfast"

// unknown are groups whose CRDs aren't there: they are no part of a Go module that is small. test/chart knows their objects by name.
var unknown = []string{"cert-manager.io", "monitoring.coreos.com"}

// withSnapshots adds the CRDs of snapshots, or has their objects left out where they were not built.
func withSnapshots(t *testing.T, e *envtest.Environment) (leftOut []string) {
	t.Helper()
	crds := filepath.Join(binaries, "crds")
	if _, err := os.Stat(crds); err != nil {
		t.Log("there are no CRDs of snapshots in .cache/kubernetes, so that objects of these kinds are left out: make kube-binaries puts them there")
		return append([]string{"snapshot.storage.k8s.io"}, unknown...)
	}
	e.CRDDirectoryPaths = append(e.CRDDirectoryPaths, crds)
	return unknown
}

// manifests are the files with all that is in deploy, and what the chart makes of several values.
func manifests(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"../../deploy/manifests/*.yaml", "../../deploy/examples/*.yaml", "../chart/testdata/golden/*.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: no files (%v)", pattern, err)
		}
		files = append(files, found...)
	}
	return slices.DeleteFunc(files, func(f string) bool { return filepath.Base(f) == "values.yaml" }) // of the chart
}

// objects reads the objects of a file.
func objects(t *testing.T, file string) (found []*unstructured.Unstructured) {
	t.Helper()
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	decoder := yaml.NewYAMLOrJSONDecoder(f, 4096)
	for {
		var o unstructured.Unstructured
		err := decoder.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return found
		}
		must(t, err)
		if len(o.Object) > 0 {
			found = append(found, &o)
		}
	}
}

// TestAPIServerTakesEveryManifest applies every object that the project gives to users as a dry run with strict validation: fields that
// nobody knows are refused, and so is what an API server alone finds wrong.
func TestAPIServerTakesEveryManifest(t *testing.T) {
	var leftOut []string
	e := environment(t, func(e *envtest.Environment) { leftOut = withSnapshots(t, e) })
	c, err := client.New(e.Config, client.Options{})
	must(t, err)
	for _, name := range namespaces(t) {
		must(t, c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	}
	for _, file := range manifests(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			taken := 0
			for _, o := range objects(t, file) {
				what := fmt.Sprintf("%s %s", o.GroupVersionKind(), o.GetName())
				if slices.Contains(leftOut, o.GroupVersionKind().Group) {
					t.Log("left out:", what)
					continue
				}
				if err := dryRun(t, c, o); err != nil {
					t.Errorf("%s: %v", what, err)
				}
				taken++
			}
			if taken == 0 {
				t.Error("no object of it was applied")
			}
		})
	}
	t.Run("WrongFieldIsRefused", func(t *testing.T) { // so that "strict" is seen to be
		o := objects(t, "../../deploy/examples/claim.yaml")[0]
		must(t, unstructured.SetNestedField(o.Object, "x", "spec", "misspelt"))
		if err := dryRun(t, c, o); err == nil || !strings.Contains(err.Error(), "misspelt") {
			t.Errorf("got %v", err)
		}
	})
}

// dryRun applies an object on the server's side, which keeps nothing of it. One that names no namespace is put where kubectl would.
func dryRun(t *testing.T, c client.Client, o *unstructured.Unstructured) error {
	t.Helper()
	namespaced, err := c.IsObjectNamespaced(o)
	must(t, err)
	if namespaced && o.GetNamespace() == "" {
		o.SetNamespace(metav1.NamespaceDefault)
	}
	body, err := o.MarshalJSON()
	must(t, err)
	return c.Patch(t.Context(), o, client.RawPatch(types.ApplyPatchType, body), client.DryRunAll, client.FieldOwner("test"), client.ForceOwnership,
		client.FieldValidation(metav1.FieldValidationStrict))
}

// namespaces are those that objects of the manifests are in, besides the one that is there.
func namespaces(t *testing.T) []string {
	t.Helper()
	names := []string{namespace}
	for _, file := range manifests(t) {
		for _, o := range objects(t, file) {
			names = append(names, o.GetNamespace())
		}
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(n string) bool { return n == "" || n == metav1.NamespaceDefault })
}
