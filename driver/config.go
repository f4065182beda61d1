package driver

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Config is the configuration file, the same for the controller and every node. docs/reference.md has an example.
type Config struct {
	// Nodes are the SPDK nodes.
	Nodes []NodeConfig `json:"nodes"`
	// TLS is who this process is to the other Holdfast processes: gateways and the served store.
	TLS TLSConfig `json:"tls"`
	// ThinOvercommit is how many times its size an lvstore may be promised to volumes: 1 or more.
	ThinOvercommit float64 `json:"thinOvercommit"`
	// ReplicaKeys are files with secrets, by the names that volumes' parameters have; keys of connections are derived from them.
	ReplicaKeys map[string]string `json:"replicaKeys"`
}

// NodeConfig is one SPDK node.
type NodeConfig struct {
	// Name is what the node is called in records. It must not change while volumes have replicas there.
	Name string `json:"name"`
	// RPC is where its JSON-RPC is reached: unix:///path or tls://host:port of its gateway.
	RPC string `json:"rpc"`
	// NVMf is the IP:port where its NVMe/TCP target is to listen.
	NVMf string `json:"nvmf"`
	// Host is the CSI node on the same machine; default is Name.
	Host string `json:"host"`
	// Zone is its failure domain, and a topology segment.
	Zone string `json:"zone"`
	// Labels are what the nodeSelector parameter looks at.
	Labels map[string]string `json:"labels"`
	// LvStores are the lvstores to use; default all.
	LvStores []string `json:"lvstores"`
	// ClearMethod is write_zeroes, the default, or unmap.
	ClearMethod spdk.ClearMethod `json:"clearMethod"`
	// KeyDir is a directory on this machine for keys that the SPDK process reads, where RPC is unix:///path; a gateway has its own.
	KeyDir string `json:"keyDir"`
}

// TLSConfig names the PEM files of a certificate, its key, and the authorities that peers are checked against.
type TLSConfig struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
	CA   string `json:"ca"`
}

// LoadConfig reads and checks a configuration file. The error names every fault, each with the line's place in the structure.
func LoadConfig(path string) (*Config, error) { return readConfig(path, true) }

// readConfig reads a file that names the SPDK nodes, or one that must not.
func readConfig(path string, withNodes bool) (*Config, error) {
	body, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	c, err := parseConfig(body, withNodes)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// ParseConfig reads and checks a configuration.
func ParseConfig(body []byte) (*Config, error) { return parseConfig(body, true) }

func parseConfig(body []byte, withNodes bool) (*Config, error) {
	c := &Config{ThinOvercommit: 1}
	if err := yaml.UnmarshalStrict(body, c); err != nil {
		return nil, err
	}
	if !withNodes {
		if len(c.Nodes) > 0 {
			return nil, errors.New("nodes: the SPDK nodes are those of the SPDKNode resources; take them out of the file, or say --spdk-nodes=file")
		}
		return c, nil
	}
	return c, c.check()
}

func (c *Config) check() error {
	var errs []error
	if len(c.Nodes) == 0 {
		errs = append(errs, errors.New("nodes: name at least one SPDK node"))
	}
	if c.ThinOvercommit < 1 {
		errs = append(errs, fmt.Errorf("thinOvercommit: %g must be 1 or more", c.ThinOvercommit))
	}
	taken := map[string]string{}
	for i, n := range c.Nodes {
		at := fmt.Sprintf("nodes[%d] (%s)", i, n.Name)
		for _, err := range n.check(c.TLS) {
			errs = append(errs, fmt.Errorf("%s: %w", at, err))
		}
		for what, value := range map[string]string{"name": n.Name, "rpc": n.RPC, "nvmf": n.NVMf} {
			key := what + " " + value
			if other, twice := taken[key]; twice && value != "" {
				errs = append(errs, fmt.Errorf("%s: %s %q is that of %s too; each SPDK node has its own", at, what, value, other))
			}
			taken[key] = at
		}
	}
	return errors.Join(errs...)
}

func (n NodeConfig) check(tls TLSConfig) []error {
	var errs []error
	if err := volume.CheckNodeName(n.Name); err != nil {
		errs = append(errs, fmt.Errorf("name: %w", err))
	}
	if _, err := spdk.Dial(n.RPC, rpcOptions(tls)); err != nil {
		errs = append(errs, fmt.Errorf("rpc: %w", err))
	}
	if _, err := parseNVMf(n.NVMf); err != nil {
		errs = append(errs, fmt.Errorf("nvmf: %w", err))
	}
	if m := n.ClearMethod; m != "" && m != spdk.ClearWriteZeroes && m != spdk.ClearUnmap {
		errs = append(errs, fmt.Errorf("clearMethod: %q must be %s or %s", m, spdk.ClearWriteZeroes, spdk.ClearUnmap))
	}
	if n.Zone != "" && !volume.ValidSegment(n.Zone) {
		errs = append(errs, fmt.Errorf("zone: %q must be 1 to 63 letters, digits, dashes, underscores and dots, with a letter or a digit at both ends", n.Zone))
	}
	if _, local := strings.CutPrefix(n.RPC, "unix://"); n.KeyDir != "" && (!local || !filepath.IsAbs(n.KeyDir)) {
		errs = append(errs, fmt.Errorf("keyDir: %q: want an absolute path, and rpc unix:///path; a gateway has --key-dir", n.KeyDir))
	}
	for key, value := range n.Labels {
		if strings.ContainsAny(key+value, "=,") || key == "" || value == "" {
			errs = append(errs, fmt.Errorf("labels: %q=%q: keys and values are not empty and have neither '=' nor ','", key, value))
		}
	}
	return errs
}

// parseNVMf reads IP:port. A name would be resolved anew by each peer, and differently.
func parseNVMf(s string) (spdk.Address, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return spdk.Address{}, fmt.Errorf("%q must be IP:port, such as 10.0.0.1:4420", s)
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.IsUnspecified() {
		return spdk.Address{}, fmt.Errorf("%q: %q must be an IP address that hosts and other SPDK nodes reach", s, host)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return spdk.Address{}, fmt.Errorf("%q: port %q must be a number from 1 to 65535", s, port)
	}
	return spdk.Address{Host: ip.String(), Port: uint16(number)}, nil
}

// ZoneOf returns the zone of the SPDK node on the machine of a CSI node; "" if there is none, or it has none.
func (c *Config) ZoneOf(host string) string {
	for _, n := range c.Nodes {
		if cmp.Or(n.Host, n.Name) == host {
			return n.Zone
		}
	}
	return ""
}

// Files returns the files as a client of other processes names them.
func (t TLSConfig) Files() spdk.TLSFiles {
	return spdk.TLSFiles{CertFile: t.Cert, KeyFile: t.Key, CAFile: t.CA}
}

func rpcOptions(tls TLSConfig) spdk.Options {
	return spdk.Options{CallTimeout: timeouts.RPC, TLS: tls.Files()}
}

// Cluster returns the SPDK nodes, each with a connection that is made when it is first used. wrap, if not nil, stands between
// the operations on a node and its connection. close ends the connections.
func (c *Config) Cluster(wrap func(node string, rpc spdk.Caller) spdk.Caller) (cluster *converge.Cluster, closeAll func(), err error) {
	var nodes []*converge.Node
	var clients []*spdk.Client
	closeAll = func() {
		for _, client := range clients {
			_ = client.Close() // the connection is given up either way
		}
	}
	for _, n := range c.Nodes {
		client, err := spdk.Dial(n.RPC, rpcOptions(c.TLS))
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		clients = append(clients, client)
		address, err := parseNVMf(n.NVMf)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		var rpc spdk.Caller = client
		if socket, local := strings.CutPrefix(n.RPC, "unix://"); local {
			rpc = spdk.KeyDir{Path: n.KeyDir, Socket: socket}.Caller(client)
		}
		if wrap != nil {
			rpc = wrap(n.Name, rpc)
		}
		nodes = append(nodes, &converge.Node{
			Node: spdk.NewNode(n.Name, rpc), Name: n.Name, NVMf: address, Host: cmp.Or(n.Host, n.Name), Zone: n.Zone, Labels: n.Labels, OnlyLvStores: n.LvStores,
			ClearMethod: cmp.Or(n.ClearMethod, spdk.ClearWriteZeroes),
		})
	}
	cluster = converge.NewCluster(nodes)
	if cluster.Secrets, err = c.secrets(); err != nil {
		closeAll()
		return nil, nil, err
	}
	return cluster, closeAll, nil
}

// secrets reads what keys of connections are derived from. No error has any of it.
func (c *Config) secrets() (map[string]volume.Secret, error) {
	secrets := map[string]volume.Secret{}
	for name, path := range c.ReplicaKeys {
		content, err := os.ReadFile(path)
		if err == nil {
			secrets[name], err = volume.NewSecret(content)
		}
		if err != nil {
			return nil, fmt.Errorf("replicaKeys: %s in %s: %w", name, path, err)
		}
	}
	return secrets, nil
}
