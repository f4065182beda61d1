package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-csi/holdfast/test/stack"
)

// startControlPlane starts everything of Kubernetes that is on this machine, and installs the CRDs of snapshots.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	if err := c.makeCredentials(); err != nil {
		return err
	}
	if err := c.startServer(ctx); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "", "apply", "-f", filepath.Join(c.binaries, "crds")); err != nil {
		return err
	}
	if err := c.startClient("kube-controller-manager", "--leader-elect=false", "--secure-port=0", "--use-service-account-credentials=true",
		"--root-ca-file="+c.path("ca.crt"), "--service-account-private-key-file="+c.path("accounts.key"),
		// Workers in software emulation are late, and pods are to be moved when a test says so.
		"--node-monitor-grace-period=5m", "--v=2"); err != nil {
		return err
	}
	if c.options.Workers == 0 {
		return nil
	}
	if err := c.startClient("kube-scheduler", "--leader-elect=false", "--secure-port=0", "--v=2"); err != nil {
		return err
	}
	return c.startClient("snapshot-controller", "--v=2")
}

// startClient starts a process that is a user of the API server of its own name.
func (c *Cluster) startClient(name string, args ...string) error {
	_, err := c.startProcess(name, append(args, "--kubeconfig="+c.path(name+".kubeconfig"))...)
	return err
}

func (c *Cluster) makeCredentials() error {
	var err error
	if c.authority, err = newAuthority(c.path("")); err != nil {
		return err
	}
	if err := c.authority.signingKey("accounts"); err != nil {
		return err
	}
	if err := c.authority.issue("apiserver", "kube-apiserver", []string{"system:masters"}, serviceIP, "127.0.0.1", stack.Address); err != nil {
		return err
	}
	for _, user := range []struct{ name, user, group string }{
		{"admin", "admin", "system:masters"},
		{"kube-controller-manager", "system:kube-controller-manager", ""},
		{"kube-scheduler", "system:kube-scheduler", ""},
		// Upstream's rights of this one are for it to define; it is no part of what is tested.
		{"snapshot-controller", "snapshot-controller", "system:masters"},
	} {
		if err := c.authority.kubeconfig(user.name, user.user, strings.Fields(user.group)...); err != nil {
			return err
		}
	}
	return nil
}

// startServer starts etcd and the API server.
func (c *Cluster) startServer(ctx context.Context) error {
	_, err := c.startProcess("etcd", "--data-dir="+c.path("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380")
	if err != nil {
		return err
	}
	c.apiserver, err = c.startProcess("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379",
		"--bind-address=0.0.0.0", "--secure-port=443", "--advertise-address="+stack.Address, "--service-cluster-ip-range="+serviceRange,
		"--tls-cert-file="+c.path("apiserver.crt"), "--tls-private-key-file="+c.path("apiserver.key"), "--client-ca-file="+c.path("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+c.path("accounts.pub"),
		"--service-account-signing-key-file="+c.path("accounts.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--kubelet-client-certificate="+c.path("apiserver.crt"), "--kubelet-client-key="+c.path("apiserver.key"),
		"--kubelet-certificate-authority="+c.path("ca.crt"), "--kubelet-preferred-address-types=InternalIP")
	if err != nil {
		return err
	}
	return c.serverReady(ctx)
}

func (c *Cluster) serverReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, upLimit)
	defer cancel()
	_, err := c.Await(ctx, func(out string) bool { return out == "ok" }, "get", "--raw", "/readyz")
	return err
}

// StopServer kills the API server.
func (c *Cluster) StopServer() { c.apiserver.Kill() }

// StartServer starts the API server again, and returns when it is ready.
func (c *Cluster) StartServer(ctx context.Context) error {
	if err := c.apiserver.Start(); err != nil {
		return err
	}
	return c.serverReady(ctx)
}

func (c *Cluster) startProcess(name string, args ...string) (*stack.Process, error) {
	p := c.SPDK.NewProcess(name, filepath.Join(c.binaries, name), args...)
	c.others = append(c.others, p)
	return p, p.Start()
}

// readFile reads a file of what the cluster runs on.
func readFile(name string) ([]byte, error) {
	body, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read what was made for the cluster: %w", err)
	}
	return body, nil
}
