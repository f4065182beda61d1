package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSetupAnswersAsRecorded(t *testing.T) {
	g := newGoldenReplay(t, true)
	g.skip[2], g.skip[3] = "TestEveryMethodIsOneOfSPDKs", "TestEveryMethodIsOneOfSPDKs"
	g.run("setup")
}

func TestEveryMethodIsOneOfSPDKs(t *testing.T) {
	var recorded []string
	for _, c := range readGolden[goldenCase](t, "setup") {
		if c.Seq == 2 {
			recorded = decodeAs[[]string](t, c.Result)
		}
	}
	for _, m := range methodNames(0) {
		if !slices.Contains(recorded, m) {
			t.Errorf("%s is not a method of the recorded target", m)
		}
	}
}

func TestLvolAnswersAsRecorded(t *testing.T) {
	g := newGoldenReplay(t, false)
	for seq := 114; seq <= 116; seq++ {
		g.skip[seq] = "how far a slow disk had come with a copy"
	}
	g.before[132] = func() {
		if err := g.nodes[1].Restart(); err != nil {
			t.Fatal(err)
		}
		g.rpc[1] = dialNode(t, g.nodes[1])
		g.configure(1)
	}
	g.run("lvol")
}

func TestNVMeOverFabricsAnswersAsRecorded(t *testing.T) {
	g := newGoldenReplay(t, false)
	g.skip[123] = "a host of the simulator connects its I/O queues before anybody opens the bdev"
	for seq := 125; seq <= 127; seq++ {
		g.skip[seq] = "not a method of the simulator"
	}
	g.skip[129] = "the order of a real target's answers to its own messages"
	g.skip[151], g.skip[155], g.skip[156] = "an instant", "an instant", "an instant"
	g.run("nvmf")
}

func TestRaidAnswersAsRecorded(t *testing.T) {
	g := newGoldenReplay(t, false)
	for seq := 57; seq <= 60; seq++ {
		g.skip[seq] = "the simulator has no superblocks"
	}
	g.before[87] = func() {
		data := bytes.Repeat([]byte{7}, 20<<20)
		if err := g.nodes[1].writeBdev("vol1", 0, data); err != nil {
			t.Fatal(err)
		}
	}
	g.before[143] = func() {
		g.rpc[1].ok("nvmf_delete_subsystem", `{"nqn":"nqn.2026-01.dev.holdfast:volume:vol1"}`)
		g.rpc[1].ok("bdev_raid_delete", `{"name":"vol1"}`)
	}
	g.run("raid")
}

// goldenProtocolCase is raw bytes sent on a connection of their own.
type goldenProtocolCase struct {
	Case     string          `json:"case"`
	Request  string          `json:"request_raw"`
	Response json.RawMessage `json:"response"`
	Outcome  string          `json:"outcome"`
}

func TestProtocolErrorsAreAsRecorded(t *testing.T) {
	n := newNode(t, "n", func(c *Config) { c.Pools = nil })
	g := &goldenReplay{t: t}
	for _, c := range readGolden[goldenProtocolCase](t, "protocol") {
		outcome, answer := rawCall(t, n, c.Request)
		if want := strings.Fields(c.Outcome)[0]; outcome != want {
			t.Errorf("%s: %s, recorded %s", c.Case, outcome, want)
			continue
		}
		var want, have any
		json.Unmarshal(c.Response, &want)
		json.Unmarshal(answer, &have)
		for _, d := range g.differences("answer", "", want, have) {
			t.Errorf("%s: %s", c.Case, d)
		}
	}
}

// rawCall sends bytes and tells what came of it: "answered", "closed" or, after a
// while, "no".
func rawCall(t *testing.T, n *Node, request string) (string, []byte) {
	t.Helper()
	conn, err := net.Dial("unix", n.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, request); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(time.Second))
	var v json.RawMessage
	err = json.NewDecoder(conn).Decode(&v)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "no", nil
	}
	if err != nil {
		return "closed", nil
	}
	return "answered", v
}
