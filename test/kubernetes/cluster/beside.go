package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/stack"
)

// controllerName is the Deployment's and the ServiceAccount's.
const controllerName = "holdfast-controller"

// announced is a worker as the API server knows it when kubelet has registered the driver there: the provisioner reads topology keys from it.
const announced = `
apiVersion: v1
kind: Node
metadata: {name: announced, labels: {` + volume.TopologyNode + `: announced}}
---
apiVersion: storage.k8s.io/v1
kind: CSINode
metadata: {name: announced}
spec: {drivers: [{name: ` + driver.Name + `, nodeID: announced, topologyKeys: [` + volume.TopologyNode + `]}]}
`

// InstallBeside installs the driver as Install does, but for its node service, whose worker is only announced, and with its controller and
// provisioner as processes on this machine rather than in a pod, where software emulation would be all that their times tell of. They have the
// arguments, the configuration and the rights that the chart gives them. Capacity isn't published: its objects belong to the pod.
func (c *Cluster) InstallBeside(ctx context.Context, r Release) (controller, provisioner *stack.Process, err error) {
	ctx, cancel := context.WithTimeout(ctx, upLimit)
	defer cancel()
	if err := c.prepareNamespace(ctx); err != nil {
		return nil, nil, err
	}
	manifests, err := c.render(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	var deployment appsv1.Deployment
	var configuration corev1.ConfigMap
	var applied []string
	for _, document := range strings.Split(manifests, "\n---\n") {
		var o struct{ Kind string }
		err := yaml.Unmarshal([]byte(document), &o)
		switch o.Kind {
		case "Deployment":
			err = errors.Join(err, yaml.UnmarshalStrict([]byte(document), &deployment))
		case "ConfigMap":
			err = errors.Join(err, yaml.UnmarshalStrict([]byte(document), &configuration))
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read the rendered chart: %w", err)
		}
		if o.Kind != "Deployment" && o.Kind != "DaemonSet" {
			applied = append(applied, document)
		}
	}
	if _, err := c.Kubectl(ctx, strings.Join(append(applied, announced), "\n---\n"), "apply", "--validate=strict", "-f", "-"); err != nil {
		return nil, nil, err
	}
	if err := c.accountKubeconfig(ctx, controllerName); err != nil {
		return nil, nil, err
	}
	config := strings.ReplaceAll(configuration.Data["config.yaml"], "/etc/holdfast/tls", c.SPDK.Dir)
	if err := os.WriteFile(c.path("config.yaml"), []byte(config), 0o600); err != nil {
		return nil, nil, err
	}
	args := func(container string) []string {
		i := slices.IndexFunc(deployment.Spec.Template.Spec.Containers, func(have corev1.Container) bool { return have.Name == container })
		all := slices.DeleteFunc(slices.Clone(deployment.Spec.Template.Spec.Containers[i].Args), func(arg string) bool { return strings.Contains(arg, "-capacity") })
		for j, arg := range all {
			arg = strings.ReplaceAll(arg, "/csi/csi.sock", c.path("csi.sock"))
			all[j] = strings.ReplaceAll(arg, "/etc/holdfast/config/config.yaml", c.path("config.yaml"))
		}
		return append(all, "--kubeconfig="+c.path(controllerName+".kubeconfig"))
	}
	controller = c.SPDK.NewProcess("controller", c.SPDK.Binary(), append(args("holdfast"), "--leader-election-namespace="+Namespace)...)
	c.others = append(c.others, controller)
	if err := controller.Start(); err != nil {
		return nil, nil, err
	}
	provisioner, err = c.startProcess("csi-provisioner", args("csi-provisioner")...)
	return controller, provisioner, err
}

// accountKubeconfig writes name.kubeconfig, with which a process is the ServiceAccount of that name.
func (c *Cluster) accountKubeconfig(ctx context.Context, name string) error {
	token, err := c.Kubectl(ctx, "", "-n", Namespace, "create", "token", name, "--duration=8h")
	if err != nil {
		return err
	}
	return c.authority.writeKubeconfig(name, &clientcmdapi.AuthInfo{Token: strings.TrimSpace(token)})
}
