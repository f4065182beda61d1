package chart

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// workloads returns the controller's and the node service's pods.
func workloads(t *testing.T, values string) (controller, node corev1.PodSpec) {
	t.Helper()
	_, objects := decode(t, mustRender(t, readValues(t, values)))
	for _, object := range objects {
		switch w := object.(type) {
		case *appsv1.Deployment:
			controller = w.Spec.Template.Spec
		case *appsv1.DaemonSet:
			node = w.Spec.Template.Spec
		}
	}
	if len(controller.Containers) == 0 || len(node.Containers) == 0 {
		t.Fatal("the controller or the node service is missing")
	}
	return controller, node
}

func containers(pod corev1.PodSpec) []corev1.Container {
	return slices.Concat(pod.InitContainers, pod.Containers)
}

func TestEveryContainerIsConfined(t *testing.T) {
	for _, name := range cases {
		controller, node := workloads(t, name)
		for _, c := range slices.Concat(containers(controller), containers(node)) {
			s := c.SecurityContext
			if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
				t.Errorf("%s: %s may write to its root file system", name, c.Name)
			}
			if _, limited := c.Resources.Limits[corev1.ResourceMemory]; !limited || len(c.Resources.Requests) != 2 {
				t.Errorf("%s: %s has resources %+v; want requests and a limit of memory", name, c.Name, c.Resources)
			}
		}
		for _, pod := range []corev1.PodSpec{controller, node} {
			if p := pod.SecurityContext; p == nil || p.SeccompProfile == nil || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("%s: a pod lacks the runtime's seccomp profile", name)
			}
		}
	}
}

func TestControllerIsNeitherRootNorPrivileged(t *testing.T) {
	for _, name := range cases {
		pod, _ := workloads(t, name)
		if pod.HostNetwork || pod.HostPID || pod.HostIPC {
			t.Errorf("%s: the controller is in a namespace of the machine", name)
		}
		if s := pod.SecurityContext; s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser == 0 {
			t.Errorf("%s: the controller may run as root", name)
		}
		for _, v := range pod.Volumes {
			if v.HostPath != nil {
				t.Errorf("%s: the controller has the machine's %s", name, v.HostPath.Path)
			}
		}
		for _, c := range containers(pod) {
			if s := c.SecurityContext; s.RunAsUser != nil || s.RunAsNonRoot != nil {
				t.Errorf("%s: %s has a user of its own: it couldn't open the driver's socket", name, c.Name)
			}
			if why := privilege(c); why != "" {
				t.Errorf("%s: %s %s", name, c.Name, why)
			}
		}
	}
}

func TestOnlyTheNodeServiceItselfIsPrivileged(t *testing.T) {
	for _, name := range cases {
		_, pod := workloads(t, name)
		if !pod.HostNetwork || pod.HostPID || pod.HostIPC {
			t.Errorf("%s: the node service must be in the machine's network, and in no other of its namespaces", name)
		}
		for _, c := range containers(pod) {
			switch why := privilege(c); {
			case c.Name == "holdfast" && why == "":
				t.Errorf("%s: Kubernetes refuses Bidirectional without privileged", name)
			case c.Name == "load-module":
				if added := c.SecurityContext.Capabilities.Add; !slices.Equal(added, []corev1.Capability{"SYS_MODULE"}) {
					t.Errorf("%s: %s has capabilities %v", name, c.Name, added)
				}
			case c.Name != "holdfast" && why != "":
				t.Errorf("%s: %s %s", name, c.Name, why)
			}
			for _, m := range c.VolumeMounts {
				if m.MountPropagation != nil && c.Name != "holdfast" {
					t.Errorf("%s: mounts of %s reach the machine", name, c.Name)
				}
			}
		}
	}
}

// privilege says what a container may do that an ordinary process may not.
func privilege(c corev1.Container) string {
	s := c.SecurityContext
	switch {
	case s.Privileged != nil && *s.Privileged:
		return "is privileged"
	case s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation:
		return "may gain privileges"
	case s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL"):
		return "has capabilities"
	case len(s.Capabilities.Add) > 0:
		return fmt.Sprintf("has capabilities %v", s.Capabilities.Add)
	}
	return ""
}

func TestSocketAndStateOutliveTheNodeServicesPod(t *testing.T) {
	_, pod := workloads(t, "full")
	paths := map[string]string{}
	for _, v := range pod.Volumes {
		if v.HostPath != nil {
			paths[v.Name] = v.HostPath.Path
		}
	}
	want := map[string]string{
		"plugin": "/var/lib/k0s/kubelet/plugins/csi.holdfast.dev", "registration": "/var/lib/k0s/kubelet/plugins_registry", "kubelet": "/var/lib/k0s/kubelet",
		"dev": "/dev", "state": "/var/lib/holdfast/node", "machine-id": "/etc/machine-id", "modules": "/lib/modules",
	}
	if !maps.Equal(paths, want) {
		t.Errorf("paths of the machine: %v, want %v", paths, want)
	}
	for _, m := range pod.Containers[0].VolumeMounts {
		bidirectional := m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationBidirectional
		if bidirectional != (m.Name == "kubelet") {
			t.Errorf("%s has propagation %v", m.Name, m.MountPropagation)
		}
		if m.Name == "kubelet" && m.MountPath != paths["kubelet"] {
			t.Errorf("kubelet's directory is at %s: kubelet's paths would not be the driver's", m.MountPath)
		}
	}
}

func TestNoImageWithoutATag(t *testing.T) {
	tagged := regexp.MustCompile(`:v[0-9][0-9.]+(@sha256:[0-9a-f]{64})?$`)
	for _, name := range cases {
		controller, node := workloads(t, name)
		for _, c := range slices.Concat(containers(controller), containers(node)) {
			if !tagged.MatchString(c.Image) {
				t.Errorf("%s: %s has image %q", name, c.Name, c.Image)
			}
			if strings.HasPrefix(c.Image, "registry.example.com/mirror/") != (name == "full") {
				t.Errorf("%s: %s has image %q: not what images.registry asks for", name, c.Image, c.Image)
			}
		}
	}
}

// TestFlagsExist runs each of the driver's containers' commands with --help beside its flags, for which the binary checks that it knows them.
func TestFlagsExist(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "holdfast")
	build := exec.Command("go", "build", "-o", binary, "./cmd/holdfast")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the driver: %v\n%s", err, out)
	}
	checked := 0
	check := func(args []string) {
		checked++
		if out, err := exec.Command(binary, append(slices.Clone(args), "--help")...).CombinedOutput(); err != nil {
			t.Errorf("holdfast %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	rendered := append(slices.Clone(cases), "manifests")
	for _, name := range rendered {
		controller, node := workloads(t, name)
		for _, c := range slices.Concat(containers(controller), containers(node)) {
			if c.Name == "holdfast" {
				check(c.Args)
			}
		}
	}
	body, err := os.ReadFile(root + "/deploy/examples/spdk-target.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, objects := decode(t, string(body))
	for _, object := range objects {
		if d, ok := object.(*appsv1.DaemonSet); ok {
			for _, c := range containers(d.Spec.Template.Spec) {
				if c.Name == "gateway" || c.Name == "spdk-config" {
					check(exampleArgs(c))
				}
			}
		}
	}
	if checked != 2*len(rendered)+2 {
		t.Errorf("%d commands were checked", checked)
	}
}

// exampleArgs returns the arguments of the driver; a shell's script calls it after "exec holdfast" and ends with where the output goes.
func exampleArgs(c corev1.Container) []string {
	if len(c.Command) == 0 {
		return c.Args
	}
	_, script, _ := strings.Cut(c.Command[len(c.Command)-1], "exec holdfast ")
	script, _, _ = strings.Cut(script, ">")
	return strings.Fields(strings.ReplaceAll(script, "\\\n", " "))
}

func TestSidecarsWaitLongerThanTheDriverTakes(t *testing.T) {
	pod, _ := workloads(t, "full")
	for _, c := range pod.Containers {
		if strings.HasPrefix(c.Name, "csi-") && !slices.Contains(c.Args, "--timeout=150s") {
			t.Errorf("%s has arguments %v", c.Name, c.Args)
		}
	}
	if source, err := os.ReadFile(root + "/spdk/timeouts/timeouts.go"); err != nil || !strings.Contains(string(source), "Sidecar = 150 * time.Second") {
		t.Errorf("the policy has another time-out of sidecars than the chart (%v)", err)
	}
}

// TestNodeServiceMayStartSlowly: on a busy machine liveness probes killed what had not started yet, and began it anew.
func TestNodeServiceMayStartSlowly(t *testing.T) {
	const seconds = 300
	for _, name := range cases {
		_, node := workloads(t, name)
		for _, c := range node.Containers {
			if c.LivenessProbe == nil {
				continue
			}
			start := c.StartupProbe
			if start == nil || start.HTTPGet.Port != c.LivenessProbe.HTTPGet.Port || start.PeriodSeconds*start.FailureThreshold < seconds {
				t.Errorf("%s: %s has startup probe %+v; want the liveness probe's, for %d s", name, c.Name, start, seconds)
			}
		}
	}
}
