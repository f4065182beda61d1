package driver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const good = `
thinOvercommit: 2
tls: {cert: /c, key: /k, ca: /a}
nodes:
- {name: a, rpc: "unix:///run/a.sock", nvmf: "10.0.0.1:4420", zone: z1, labels: {disk: nvme}, lvstores: [lvs]}
- {name: b, rpc: "tls://b.example:9009", nvmf: "[fd00::2]:4420", host: worker-b}
`

func TestConfigurationIsRead(t *testing.T) {
	c, err := ParseConfig([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	cluster, closeAll, err := c.Cluster(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll()
	a, err := cluster.Node("a")
	if err != nil || a.Host != "a" || a.NVMf.String() != "10.0.0.1:4420" || a.Zone != "z1" {
		t.Errorf("%+v, %v", a, err)
	}
	if c.ZoneOf("a") != "z1" || c.ZoneOf("worker-b") != "" || c.ZoneOf("elsewhere") != "" {
		t.Errorf("zones: %q, %q, %q", c.ZoneOf("a"), c.ZoneOf("worker-b"), c.ZoneOf("elsewhere"))
	}
	b, err := cluster.Node("b")
	if err != nil || b.Host != "worker-b" || b.NVMf.String() != "[fd00::2]:4420" {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestFaultsOfAConfigurationAreNamedWithTheirPlace(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		"no nodes":          {`nodes: []`, "at least one"},
		"unknown key":       {`node: []`, "node"},
		"overcommit":        {strings.Replace(good, "thinOvercommit: 2", "thinOvercommit: 0.5", 1), "thinOvercommit"},
		"doubled name":      {strings.Replace(good, "name: b", "name: a", 1), `name "a" is that of nodes[0] (a) too`},
		"doubled address":   {strings.Replace(good, "[fd00::2]:4420", "10.0.0.1:4420", 1), `nvmf "10.0.0.1:4420"`},
		"doubled rpc":       {strings.Replace(good, "tls://b.example:9009", "unix:///run/a.sock", 1), "rpc"},
		"rpc scheme":        {strings.Replace(good, "unix:///run/a.sock", "http://a", 1), "nodes[0] (a): rpc"},
		"rpc without certs": {strings.Replace(good, "tls: {cert: /c, key: /k, ca: /a}", "", 1), "nodes[1] (b): rpc"},
		"nvmf host name":    {strings.Replace(good, "10.0.0.1:4420", "storage-a:4420", 1), "must be an IP address"},
		"nvmf wildcard":     {strings.Replace(good, "10.0.0.1:4420", "0.0.0.0:4420", 1), "must be an IP address"},
		"nvmf port":         {strings.Replace(good, "10.0.0.1:4420", "10.0.0.1:0", 1), "port"},
		"node name":         {strings.Replace(good, "name: b", `name: "b b"`, 1), "nodes[1]"},
		"zone":              {strings.Replace(good, "zone: z1", "zone: 'z 1'", 1), "nodes[0] (a): zone"},
		"key directory":     {strings.Replace(good, "rpc: \"tls://b.example:9009\"", "rpc: \"tls://b.example:9009\", keyDir: /keys", 1), "keyDir"},
		"label":             {strings.Replace(good, "disk: nvme", "disk: ''", 1), "labels"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseConfig([]byte(c.yaml))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("want an error with %q, got: %v", c.want, err)
			}
		})
	}
}

func TestSecretsOfReplicaKeysAreReadAndNotShown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "main")
	for content, want := range map[string]string{strings.Repeat("s3cr3t", 8): "", "s3cr3t": "replicaKeys: main"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := ParseConfig([]byte(good + "replicaKeys: {main: " + file + "}\n"))
		if err != nil {
			t.Fatal(err)
		}
		cluster, closeAll, err := c.Cluster(nil)
		switch {
		case want != "":
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("got %v", err)
			}
		case err != nil:
			t.Error(err)
		default:
			closeAll()
			if err := cluster.CheckKey(volume.Parameters{ReplicaKey: "main", HostKey: "main"}); err != nil {
				t.Error(err)
			}
			for parameter, p := range map[string]volume.Parameters{"replicaKey=other": {ReplicaKey: "other", HostKey: "main"}, "hostKey=other": {ReplicaKey: "main", HostKey: "other"}} {
				if err := cluster.CheckKey(p); !errors.Is(err, volume.ErrNoKey) || !strings.Contains(err.Error(), parameter) {
					t.Errorf("%s: %v", parameter, err)
				}
			}
		}
	}
}
