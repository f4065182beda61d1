package driver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// resources serves SPDKNode resources with these names and NVMf ports, and returns a Source that reads them.
func resources(t *testing.T, port *atomic.Int32, names ...string) Source {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		list := v1alpha1.SPDKNodeList{TypeMeta: metav1.TypeMeta{Kind: "SPDKNodeList", APIVersion: v1alpha1.GroupVersion.String()}}
		for i, name := range names {
			list.Items = append(list.Items, v1alpha1.SPDKNode{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.SPDKNodeSpec{
				RPC: "unix:///run/" + name, NVMf: fmt.Sprintf("10.0.0.%d:%d", i+1, port.Load()), Zone: "z1",
			}})
		}
		list.Items = append(list.Items, v1alpha1.SPDKNode{ObjectMeta: metav1.ObjectMeta{Name: "shown-only"}})
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(list)
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	s := Source{Config: filepath.Join(dir, "config.yaml"), Store: StoreKube, SPDKNodes: NodesFromKube, Kubeconfig: filepath.Join(dir, "kubeconfig")}
	kubeconfig := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: %q}}], users: [{name: u, user: {}}]}`, server.URL)
	for path, text := range map[string]string{s.Config: "thinOvercommit: 2", s.Kubeconfig: kubeconfig} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestSPDKNodesComeFromResources(t *testing.T) {
	var port atomic.Int32
	port.Store(4420)
	o, err := resources(t, &port, "a", "b").Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if names := o.Cluster.Names(); !slices.Equal(names, []string{"a", "b"}) || o.Config.ZoneOf("a") != "z1" || o.Config.ThinOvercommit != 2 {
		t.Errorf("the nodes are %v of %+v", names, o.Config)
	}
}

func TestProcessEndsWhenTheResourcesNameOtherNodes(t *testing.T) {
	var port atomic.Int32
	port.Store(4420)
	o, err := resources(t, &port, "a").Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	clock := clocktesting.NewFakeClock(time.Now())
	ended := make(chan error, 1)
	go func() { ended <- o.WatchNodes(t.Context(), clock) }()
	port.Store(4421)
	for {
		clock.Step(nodesInterval)
		select {
		case err := <-ended:
			if !errors.Is(err, ErrNodesChanged) {
				t.Errorf("got %v", err)
			}
			return
		default:
		}
	}
}

func TestSourceThatContradictsItselfIsRefused(t *testing.T) {
	var port atomic.Int32
	port.Store(4420)
	good := resources(t, &port, "a")
	withNodes, none := good, resources(t, &port)
	withNodes.Config = filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(withNodes.Config, []byte("nodes: [{name: a, rpc: \"unix:///a\", nvmf: \"10.0.0.1:4420\"}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere, file := good, good
	elsewhere.SPDKNodes, file.Store = "cloud", "bolt:///tmp/x"
	for want, s := range map[string]Source{
		"take them out of the file": withNodes, "name at least one SPDK node": none, "must be file or kube": elsewhere, "needs --store kube": file,
	} {
		if _, err := s.Open(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}
