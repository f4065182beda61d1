package cluster

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"
)

// Release is how the driver is installed.
type Release struct {
	// Tag is that of the driver's image: before or after, which are the same program.
	Tag string
	// Parameters are those of StorageClass holdfast.
	Parameters map[string]string
	// Binding is the class's volumeBindingMode, default WaitForFirstConsumer.
	Binding string
}

// values are those of the chart.
func (c *Cluster) values(r Release) ([]byte, error) {
	sidecar := func(name string) map[string]any {
		return map[string]any{"repository": "sig-storage/" + name, "tag": "test"}
	}
	var nodes []map[string]string
	for _, n := range c.SPDK.Nodes() {
		nodes = append(nodes, map[string]string{"name": n.Name, "rpc": n.RPC, "nvmf": n.NVMf})
	}
	return yaml.Marshal(map[string]any{
		"images": map[string]any{
			"registry": Registry, "pullPolicy": "Never", "holdfast": map[string]any{"repository": "holdfast/holdfast", "tag": r.Tag},
			"provisioner": sidecar("csi-provisioner"), "attacher": sidecar("csi-attacher"), "resizer": sidecar("csi-resizer"),
			"snapshotter": sidecar("csi-snapshotter"), "registrar": sidecar("csi-node-driver-registrar"), "livenessProbe": sidecar("livenessprobe"),
		},
		"config":                map[string]any{"nodes": nodes, "thinOvercommit": 4},
		"controller":            map[string]any{"replicas": max(1, c.options.Workers)},
		"snapshotter":           map[string]any{"enabled": true},
		"storageClasses":        []any{map[string]any{"name": "holdfast", "parameters": r.Parameters, "bindingMode": cmp.Or(r.Binding, "WaitForFirstConsumer")}},
		"volumeSnapshotClasses": []any{map[string]any{"name": "holdfast"}},
	})
}

// Install installs the driver, or upgrades it, as docs/install.md says, and returns when all its pods are ready and every worker has the driver.
func (c *Cluster) Install(ctx context.Context, r Release) error {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, upLimit)
	defer cancel()
	if err := c.prepareNamespace(ctx); err != nil {
		return err
	}
	manifests, err := c.render(ctx, r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.options.Logs, "manifests-"+r.Tag+".yaml"), []byte(manifests), 0o644); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, manifests, "apply", "--validate=strict", "-f", "-"); err != nil {
		return err
	}
	for _, workload := range []string{"daemonset/holdfast-node", "deployment/holdfast-controller"} {
		if _, err := c.Kubectl(ctx, "", "-n", Namespace, "rollout", "status", workload); err != nil {
			return err
		}
	}
	if err := c.each(func(w *Worker) error { return w.hasDriver(ctx) }); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "cluster: install %s: %.0f s\n", r.Tag, time.Since(begin).Seconds())
	return nil
}

// prepareNamespace does the steps before the chart: CRDs, namespace, and the client's certificate.
func (c *Cluster) prepareNamespace(ctx context.Context) error {
	data := map[string]string{}
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
		body, err := readFile(filepath.Join(c.SPDK.Dir, name))
		if err != nil {
			return err
		}
		data[name] = base64.StdEncoding.EncodeToString(body)
	}
	objects, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": []any{
		map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{
			"name": Namespace, "labels": map[string]string{"pod-security.kubernetes.io/enforce": "privileged"},
		}},
		map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "holdfast-client-tls", "namespace": Namespace}, "data": data},
	}})
	if err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "", "apply", "-f", filepath.Join(c.source, "deploy/crds")); err != nil {
		return err
	}
	_, err = c.Kubectl(ctx, string(objects), "apply", "-f", "-")
	return err
}

// render renders the chart, with Helm as test/chart has it.
func (c *Cluster) render(ctx context.Context, r Release) (string, error) {
	values, err := c.values(r)
	if err != nil {
		return "", err
	}
	file := c.path("values.yaml")
	if err := os.WriteFile(file, values, 0o644); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "run", "./render", filepath.Join(c.source, "deploy/chart/holdfast"), file)
	cmd.Dir = filepath.Join(c.source, "test/chart")
	var out, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &messages
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("render the chart: %w: %s", err, messages.String())
	}
	return out.String(), nil
}
