package sim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// testClient is a JSON-RPC client that knows nothing of package spdk's.
type testClient struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	id   int
}

type testAnswer struct {
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

func dialNode(t testing.TB, n *Node) *testClient {
	t.Helper()
	conn, err := net.Dial("unix", n.Socket())
	if err != nil {
		t.Fatalf("dial %s: %v", n.Name(), err)
	}
	t.Cleanup(func() { conn.Close() })
	return &testClient{t: t, conn: conn, r: bufio.NewReader(conn)}
}

// do calls a method; params is JSON or "" for none.
func (c *testClient) do(method, params string) testAnswer {
	c.t.Helper()
	a, err := c.try(method, params)
	if err != nil {
		c.t.Fatalf("%s: %v", method, err)
	}
	return a
}

func (c *testClient) try(method, params string) (testAnswer, error) {
	c.id++
	if params != "" {
		params = `,"params":` + params
	}
	if _, err := fmt.Fprintf(c.conn, `{"jsonrpc":"2.0","id":%d,"method":%q%s}`, c.id, method, params); err != nil {
		return testAnswer{}, err
	}
	line, err := c.r.ReadBytes('\n')
	if err != nil {
		return testAnswer{}, err
	}
	var a testAnswer
	return a, json.Unmarshal(line, &a)
}

// ok calls a method that must succeed and returns its result.
func (c *testClient) ok(method, params string) json.RawMessage {
	c.t.Helper()
	a := c.do(method, params)
	if a.Error != nil {
		c.t.Fatalf("%s %s: %d %s", method, params, a.Error.Code, a.Error.Message)
	}
	return a.Result
}

// fails calls a method that must fail with that code and message.
func (c *testClient) fails(code int, message, method, params string) {
	c.t.Helper()
	a := c.do(method, params)
	if a.Error == nil {
		c.t.Fatalf("%s %s: succeeded with %s, want %d %s", method, params, a.Result, code, message)
	}
	if a.Error.Code != code || a.Error.Message != message {
		c.t.Fatalf("%s %s: %d %q, want %d %q", method, params, a.Error.Code, a.Error.Message, code, message)
	}
}

// str is a JSON string's value.
func str(t testing.TB, raw json.RawMessage) string {
	t.Helper()
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatalf("%s is not a string", raw)
	}
	return s
}

// decode reads JSON into a new T.
func decodeAs[T any](t testing.TB, raw json.RawMessage) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return v
}

// eventually polls until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// newNode starts a node with one pool "lvs" of 256 MiB in 1 MiB clusters.
func newNode(t testing.TB, name string, change func(*Config)) *Node {
	t.Helper()
	cfg := Config{Name: name, Socket: filepath.Join(t.TempDir(), name+".sock"),
		Pools:     []PoolConfig{{Name: "lvs", SizeBytes: 256 << 20, ClusterSize: 1 << 20}},
		Transport: map[string]any{"kas": 5, "min_kato": 2000}}
	if change != nil {
		change(&cfg)
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	return n
}

// freePort is a TCP port that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
