package stack

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/test/vm"
)

// Key is the name of the secret that volumes of a stack with processes may ask for, as replicaKey and as hostKey.
const Key = "main"

// StartGateways starts the targets, and on this machine the gateways before them, and nothing that uses them: the driver runs elsewhere. The
// tests must run in a network namespace that has Address; see Main. The certificates are tls.crt, tls.key and ca.crt in Dir.
func StartGateways(ctx context.Context, o Options) (*Stack, error) {
	s, err := newStack(ctx, Address, o)
	if err != nil {
		return nil, s.abandon(err)
	}
	for _, step := range []func(context.Context) error{s.build, s.startGateways} {
		if err := step(ctx); err != nil {
			return nil, s.abandon(err)
		}
	}
	return s, nil
}

// Binary is the driver's program, static.
func (s *Stack) Binary() string { return s.path("holdfast") }

func (s *Stack) build(ctx context.Context) error {
	if err := makeCertificates(s.Dir); err != nil {
		return err
	}
	if err := os.WriteFile(s.path("secret"), []byte(rand.Text()+rand.Text()), 0o600); err != nil {
		return err
	}
	return vm.Build(ctx, s.Binary(), "github.com/holdfast-csi/holdfast/cmd/holdfast")
}

// startGateways puts each target's JSON-RPC behind mutual TLS. A target that is cut off has a gateway that stands still: nothing
// answers, though this machine's kernel still accepts connections.
func (s *Stack) startGateways(context.Context) error {
	for _, t := range s.Targets {
		port, err := freePort(s.ip)
		if err != nil {
			return err
		}
		g := &gateway{port: port}
		g.Process = s.NewProcess("gateway-"+t.Name, s.Binary(), "gateway", "--listen", fmt.Sprintf("%s:%d", s.ip, port), "--socket", t.Socket,
			"--cert", s.path("tls.crt"), "--key", s.path("tls.key"), "--ca", s.path("ca.crt"), "--key-dir", s.path("keys-"+t.Name))
		s.gateways = append(s.gateways, g)
		t.rpc = g.Freeze
		if err := g.Start(); err != nil {
			return err
		}
	}
	return nil
}

// Nodes are the SPDK nodes as the driver reaches them, through their gateways.
func (s *Stack) Nodes() []driver.NodeConfig {
	var nodes []driver.NodeConfig
	for i, n := range s.nodes {
		n.RPC = fmt.Sprintf("tls://%s:%d", s.ip, s.gateways[i].port)
		nodes = append(nodes, n)
	}
	return nodes
}

// config is the configuration of a process that has its certificates and the secret in dir.
func (s *Stack) config(dir string) (*driver.Config, []byte, error) {
	c := &driver.Config{
		Nodes: s.Nodes(), ThinOvercommit: 4, TLS: driver.TLSConfig{Cert: dir + "/tls.crt", Key: dir + "/tls.key", CA: dir + "/ca.crt"},
		ReplicaKeys: map[string]string{Key: dir + "/secret"},
	}
	body, err := yaml.Marshal(c)
	return c, body, err
}
