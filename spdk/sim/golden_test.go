package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// goldenCase is a call recorded from real nvmf_tgt processes; testdata/golden/README.md
// says how.
type goldenCase struct {
	Case   string          `json:"case"`
	Seq    int             `json:"seq"`
	Target int             `json:"target"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

func readGolden[T any](t *testing.T, name string) []T {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "golden", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return decodeAs[[]T](t, raw)
}

// goldenReplay plays a recording against three nodes.
type goldenReplay struct {
	t      *testing.T
	nodes  map[int]*Node
	rpc    map[int]*testClient
	disks  string
	ports  map[string]string // recorded -> ours
	known  map[string]string // recorded UUID -> ours
	skip   map[int]string    // seq -> why
	before map[int]func()
}

const goldenDiskSize = 4 << 30

// newGoldenReplay starts the nodes. Empty nodes have nothing; others are configured
// as the recorded targets were.
func newGoldenReplay(t *testing.T, empty bool) *goldenReplay {
	g := &goldenReplay{t: t, nodes: map[int]*Node{}, rpc: map[int]*testClient{}, disks: t.TempDir(),
		ports: map[string]string{}, known: map[string]string{}, skip: map[int]string{}, before: map[int]func(){}}
	network := NewNetwork(nil)
	for i := 1; i <= 3; i++ {
		disk := filepath.Join(g.disks, fmt.Sprintf("disk%d.img", i))
		if err := os.WriteFile(disk, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(disk, goldenDiskSize); err != nil {
			t.Fatal(err)
		}
		n := newNode(t, fmt.Sprintf("target%d", i), func(c *Config) {
			c.Pools, c.Transport, c.Network = nil, nil, network
			if !empty {
				c.Transport = map[string]any{"kas": 5, "min_kato": 2000}
				c.NVMeOptions = map[string]any{"action_on_timeout": "reset", "timeout_us": 60000000, "timeout_admin_us": 10000000,
					"keep_alive_timeout_ms": 2000, "transport_ack_timeout": 10}
			}
		})
		g.nodes[i], g.rpc[i] = n, dialNode(t, n)
		if !empty {
			g.configure(i)
			g.rpc[i].ok("bdev_lvol_create_lvstore", `{"bdev_name":"aio0","lvs_name":"lvs","clear_method":"none"}`)
		}
	}
	return g
}

// configure gives a target the disk that its configuration has.
func (g *goldenReplay) configure(i int) {
	g.rpc[i].ok("bdev_aio_create", fmt.Sprintf(`{"name":"aio0","filename":"%s/disk%d.img","block_size":4096}`, g.disks, i))
}

func (g *goldenReplay) run(section string) {
	for _, c := range readGolden[goldenCase](g.t, section) {
		if f := g.before[c.Seq]; f != nil {
			f()
		}
		if g.skip[c.Seq] != "" {
			continue
		}
		g.play(c)
	}
}

// play makes one call and compares the answer. What is read may take a moment to
// become what it was, so a call that changes nothing is repeated for a while.
func (g *goldenReplay) play(c goldenCase) {
	g.t.Helper()
	params := ""
	if len(c.Params) > 0 && string(c.Params) != "null" {
		d := json.NewDecoder(bytes.NewReader(c.Params))
		d.UseNumber() // sizes beyond 2^53 are among them
		var v any
		if err := d.Decode(&v); err != nil {
			g.t.Fatal(err)
		}
		raw, err := json.Marshal(g.ours(v, ""))
		if err != nil {
			g.t.Fatal(err)
		}
		params = string(raw)
	}
	reads := strings.Contains(c.Method, "_get_") || strings.HasSuffix(c.Method, "check_shallow_copy")
	for deadline := time.Now().Add(8 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		diffs := g.compare(c, g.rpc[c.Target].do(c.Method, params))
		if len(diffs) == 0 {
			return
		}
		if !reads || time.Now().After(deadline) {
			g.t.Errorf("%d (target %d) %s: %s %s\n\t%s", c.Seq, c.Target, c.Case, c.Method, params, strings.Join(diffs, "\n\t"))
			return
		}
	}
}

// ours translates what a recorded call says to our ports, paths and UUIDs.
func (g *goldenReplay) ours(v any, key string) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			out[k] = g.ours(e, k)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = g.ours(e, key)
		}
		return out
	case string:
		return g.ourString(v, key)
	}
	return v
}

func (g *goldenReplay) ourString(s, key string) string {
	if key == "trsvcid" && len(s) == 4 && strings.HasPrefix(s, "44") {
		if g.ports[s] == "" {
			g.ports[s] = freePort(g.t)
		}
		return g.ports[s]
	}
	for recorded, ours := range g.known {
		s = strings.ReplaceAll(s, recorded, ours)
		s = strings.ReplaceAll(s, nguidOf(recorded), nguidOf(ours))
	}
	return strings.ReplaceAll(s, "DISKS/", g.disks+"/")
}

// nguidOf is a UUID as the NGUID that a namespace has by default.
func nguidOf(uuid string) string { return strings.ToUpper(strings.ReplaceAll(uuid, "-", "")) }

// compare lists what differs between the recorded answer and ours.
func (g *goldenReplay) compare(c goldenCase, got testAnswer) []string {
	if c.Error != nil || got.Error != nil {
		ours, _ := json.Marshal(got.Error)
		var want, have any
		if c.Error == nil {
			return []string{fmt.Sprintf("failed with %s, recorded %s", ours, c.Result)}
		}
		json.Unmarshal(c.Error, &want)
		json.Unmarshal(ours, &have)
		return g.differences("error", "error", want, have)
	}
	var want, have any
	json.Unmarshal(c.Result, &want)
	json.Unmarshal(got.Result, &have)
	if diffs := g.differences("result", "", want, have); len(diffs) > 0 {
		return diffs
	}
	g.learn(want, have)
	return nil
}
