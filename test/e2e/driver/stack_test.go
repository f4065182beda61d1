//go:build e2e

// Package driver runs the whole driver for real: the controller as a process on this machine, the node service as a process on a
// Linux kernel in a virtual machine, mutual TLS between them, and SPDK targets: simulated ones, or with SPDK_RPC_SOCK=a.sock,b.sock,...
// real ones, which must have an lvstore each and a TCP transport, and run in a network namespace that has the
// address and that the tests are started in.
package driver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/test/vm"
	"github.com/holdfast-csi/holdfast/test/vm/agent"
)

const (
	nodeName   = "worker-1"
	nodeSocket = "/run/holdfast/node.sock"
	binaryPath = "/usr/local/bin/holdfast"
	// long bounds what is to succeed: software emulation on a busy machine is slow.
	long = 2 * time.Minute
	// address is this machine's, for the guest and the targets alike (TEST-NET-1, RFC 5737): SPDK nodes must be the same to everyone.
	// It is on the loopback interface of a network namespace that the tests run in.
	address = "192.0.2.1"
)

// stack is everything that runs.
type stack struct {
	dir        string
	vm         *vm.VM
	nodes      []driver.NodeConfig
	gateways   []int       // ports, one a node
	sims       []*sim.Node // none against real targets
	controller csi.ControllerClient
	node       csi.NodeClient
	before     string
}

var shared *stack

// TestMain runs the tests in a network namespace of their own, unless they are in one that has the address.
func TestMain(m *testing.M) {
	flag.Parse()
	if !hasAddress() {
		os.Exit(inNamespace())
	}
	code := m.Run()
	if shared != nil {
		shared.close()
	}
	os.Exit(code)
}

func hasAddress() bool {
	l, err := net.Listen("tcp", address+":0")
	if err == nil {
		_ = l.Close()
	}
	return err == nil
}

// inNamespace runs this program again, in a new network namespace, and returns its exit status.
func inNamespace() int {
	script := "ip link set lo up && ip address add " + address + "/32 dev lo && exec \"$0\" \"$@\""
	again := exec.Command("unshare", append([]string{"--net", "sh", "-c", script}, os.Args...)...)
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	if err := again.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "run in a network namespace (this needs root and iproute2):", err)
		return 1
	}
	return 0
}

// closers end what the stack is made of, the last first.
var closers []func()

func (s *stack) close() {
	for i := len(closers) - 1; i >= 0; i-- {
		closers[i]()
	}
}

// run returns the stack, which all tests share: each has volumes of its own.
func run(t *testing.T) *stack {
	t.Helper()
	if shared != nil {
		return shared
	}
	dir, err := os.MkdirTemp("", "hf")
	must(t, err)
	closers = append(closers, func() { _ = os.RemoveAll(dir) })
	s := &stack{dir: dir}
	s.startTargets(t)
	s.before = s.inventory(t)
	makeCertificates(t, dir)
	must(t, vm.Build(t.Context(), filepath.Join(dir, "holdfast"), "github.com/holdfast-csi/holdfast/cmd/holdfast"))
	s.startGateways(t)
	storePort := freePort(t)
	s.startController(t, storePort)
	s.startNode(t, storePort)
	shared = s
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", address+":0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// startTargets makes three simulated SPDK nodes, or takes the real ones that SPDK_RPC_SOCK names.
func (s *stack) startTargets(t *testing.T) {
	var sockets []string
	if real := os.Getenv("SPDK_RPC_SOCK"); real != "" {
		sockets = strings.Split(real, ",")
	} else {
		sockets = s.startSims(t)
	}
	for i, socket := range sockets {
		s.nodes = append(s.nodes, driver.NodeConfig{
			Name: fmt.Sprintf("n%d", i+1), RPC: "unix://" + socket, NVMf: fmt.Sprintf("%s:%d", address, freePort(t)),
		})
	}
}

func (s *stack) startSims(t *testing.T) (sockets []string) {
	v, err := timeouts.Derive(timeouts.DefaultBudgets())
	must(t, err)
	network := sim.NewNetwork(nil)
	for i := range 3 {
		name := fmt.Sprintf("n%d", i+1)
		node, err := sim.New(sim.Config{
			Name: name, Socket: filepath.Join(s.dir, name+".sock"), Network: network,
			Pools: []sim.PoolConfig{{Name: "pool", SizeBytes: 8 << 30}},
			NVMeOptions: map[string]any{
				"action_on_timeout": "reset", "timeout_us": v.Node.IOTimeout.Microseconds(), "timeout_admin_us": v.Node.AdminTimeout.Microseconds(),
				"keep_alive_timeout_ms": v.Node.KeepAlive.Milliseconds(), "transport_ack_timeout": v.Node.TransportAck,
			},
			Transport: map[string]any{"kas": v.Node.KAS, "min_kato": v.Node.MinKATO.Milliseconds()},
		})
		must(t, err)
		must(t, node.Start())
		closers = append(closers, node.Close)
		s.sims = append(s.sims, node)
		sockets = append(sockets, filepath.Join(s.dir, name+".sock"))
	}
	return sockets
}

// startGateways puts each target's JSON-RPC behind mutual TLS.
func (s *stack) startGateways(t *testing.T) {
	t.Helper()
	for _, n := range s.nodes {
		port := freePort(t)
		s.gateways = append(s.gateways, port)
		s.start(t, "gateway", "--listen", fmt.Sprintf("%s:%d", address, port), "--socket", strings.TrimPrefix(n.RPC, "unix://"),
			"--cert", s.dir+"/tls.crt", "--key", s.dir+"/tls.key", "--ca", s.dir+"/ca.crt")
	}
}

// start runs the driver's binary on this machine until the stack is closed.
func (s *stack) start(t *testing.T, args ...string) {
	t.Helper()
	process := exec.Command(filepath.Join(s.dir, "holdfast"), args...)
	process.Stderr = os.Stderr
	must(t, process.Start())
	closers = append(closers, func() {
		_ = process.Process.Signal(os.Interrupt)
		_ = process.Wait()
	})
}

// config is the configuration of a process that has its certificates in tlsDir. All SPDK nodes are reached through their gateways.
func (s *stack) config(t *testing.T, tlsDir string) []byte {
	t.Helper()
	c := driver.Config{ThinOvercommit: 4, TLS: driver.TLSConfig{Cert: tlsDir + "/tls.crt", Key: tlsDir + "/tls.key", CA: tlsDir + "/ca.crt"}}
	for i, n := range s.nodes {
		n.RPC = fmt.Sprintf("tls://%s:%d", address, s.gateways[i])
		c.Nodes = append(c.Nodes, n)
	}
	body, err := yaml.Marshal(c)
	must(t, err)
	return body
}

func (s *stack) startController(t *testing.T, storePort int) {
	t.Helper()
	config, socket := filepath.Join(s.dir, "config.yaml"), filepath.Join(s.dir, "c.sock")
	must(t, os.WriteFile(config, s.config(t, s.dir), 0o600))
	s.start(t, "controller", "--config", config, "--endpoint", "unix://"+socket, "--store", "bolt://"+filepath.Join(s.dir, "volumes.db"),
		"--serve-store", fmt.Sprintf("tls://%s:%d", address, storePort), "-v", "2")
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	closers = append(closers, func() { _ = conn.Close() })
	s.controller = csi.NewControllerClient(conn)
	waitReady(t, conn)
}

func waitReady(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	_, err := csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true))
	must(t, err)
}

func (s *stack) startNode(t *testing.T, storePort int) {
	t.Helper()
	machine, err := vm.Start(t.Context(), vm.Config{MemoryMiB: 768, Files: map[string]string{binaryPath: filepath.Join(s.dir, "holdfast")}})
	must(t, err)
	s.vm = machine
	closers = append(closers, func() { _ = machine.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	files := map[string][]byte{"/etc/holdfast/config.yaml": s.config(t, "/etc/holdfast"), "/etc/machine-id": []byte("e2e\n")}
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
		files["/etc/holdfast/"+name], err = os.ReadFile(filepath.Join(s.dir, name))
		must(t, err)
	}
	for path, body := range files {
		must(t, machine.WriteFile(ctx, path, body, 0o600))
	}
	s.guest(t, "mkdir -p /run/holdfast /mnt && ip route add default via "+vm.HostAddress)
	_, err = machine.Start(context.Background(), agent.Command{Args: []string{
		binaryPath, "node", "--node-id", nodeName, "--endpoint", "unix://" + nodeSocket, "--store", fmt.Sprintf("tls://%s:%d", address, storePort), "-v", "2",
	}}, agent.Streams{Stdout: os.Stderr, Stderr: os.Stderr})
	must(t, err)
	conn, err := grpc.NewClient("passthrough:///guest", s.guestOptions()...)
	must(t, err)
	closers = append(closers, func() { _ = conn.Close() })
	s.node = csi.NewNodeClient(conn)
	waitReady(t, conn)
}

// guestOptions dial the node service inside the guest.
func (s *stack) guestOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return s.vm.DialContext(ctx, "unix", nodeSocket)
		}),
	}
}

// guest runs a shell command in the guest, which must succeed.
func (s *stack) guest(t *testing.T, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	out, err := s.vm.Output(ctx, "sh", "-ec", command)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return strings.TrimSpace(out)
}

// eachNode visits the targets past the driver.
func (s *stack) eachNode(t *testing.T, visit func(node *spdk.Node)) {
	t.Helper()
	for _, n := range s.nodes {
		client, err := spdk.Dial(n.RPC, spdk.Options{CallTimeout: timeouts.RPC})
		must(t, err)
		visit(spdk.NewNode(n.Name, client))
		must(t, client.Close())
	}
}

// raidHost returns the node that runs the only raid there is.
func (s *stack) raidHost(t *testing.T) (name string) {
	t.Helper()
	s.eachNode(t, func(node *spdk.Node) {
		raids, err := node.Raids(t.Context())
		must(t, err)
		if len(raids) > 0 {
			name = node.Name()
		}
	})
	return name
}

// legs lists the addresses' nodes that the only raid there is has legs on.
func (s *stack) legs(t *testing.T) string {
	t.Helper()
	var on []string
	s.eachNode(t, func(node *spdk.Node) {
		legs, err := node.Legs(t.Context())
		must(t, err)
		for _, l := range legs {
			for _, n := range s.nodes {
				if n.NVMf == l.Address.String() && l.InUse {
					on = append(on, n.Name)
				}
			}
		}
	})
	return strings.Join(on, " ")
}

// inventory lists what the driver could have made on the targets.
func (s *stack) inventory(t *testing.T) string {
	t.Helper()
	var all []string
	s.eachNode(t, func(node *spdk.Node) {
		add := func(kind, name string) { all = append(all, node.Name()+" "+kind+" "+name) }
		lvols, err := node.Lvols(t.Context())
		must(t, err)
		for _, l := range lvols {
			add("lvol", l.Name)
		}
		raids, err := node.Raids(t.Context())
		must(t, err)
		for _, r := range raids {
			add("raid", r.Name)
		}
		legs, err := node.Legs(t.Context())
		must(t, err)
		for _, l := range legs {
			add("controller", l.Controller)
		}
		exports, err := node.Exports(t.Context())
		must(t, err)
		for _, e := range exports {
			add("subsystem", e.NQN)
		}
	})
	return strings.Join(all, "\n")
}

// wantNothingLeft fails the test if anything is left on the targets or the guest.
func (s *stack) wantNothingLeft(t *testing.T) {
	t.Helper()
	if now := s.inventory(t); now != s.before {
		t.Errorf("left on the targets:\n%s", now)
	}
	for what, command := range map[string]string{
		"controllers": "ls /sys/class/nvme 2>/dev/null || true", "mounts": "grep /mnt/ /proc/self/mountinfo || true", "state": "ls /var/lib/holdfast/node",
	} {
		if left := s.guest(t, command); left != "" {
			t.Errorf("%s left in the guest: %s", what, left)
		}
	}
}

// makeCertificates makes an authority and one certificate that serves as server's and client's.
func makeCertificates(t *testing.T, dir string) {
	t.Helper()
	now := time.Now()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "holdfast"}, NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.ParseIP(address)},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	for name, block := range map[string]*pem.Block{
		"ca.crt": {Type: "CERTIFICATE", Bytes: caDER}, "tls.crt": {Type: "CERTIFICATE", Bytes: der}, "tls.key": {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		var body bytes.Buffer
		must(t, pem.Encode(&body, block))
		must(t, os.WriteFile(filepath.Join(dir, name), body.Bytes(), 0o600))
	}
}
