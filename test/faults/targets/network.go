package main

import (
	"fmt"
	"os/exec"
	"strings"

	"github.com/holdfast-csi/holdfast/test/stack"
)

// The tests are in a namespace of their own, which has the bridge and the address that stack.Main wants.
const (
	testsNamespace = "hf-tests"
	bridge         = "hf0"
	// A slow link, each way. Where the kernel has no netem it is a narrow one: what the load sends waits in its queue.
	delayed = "netem delay 100ms"
	narrow  = "tbf rate 16mbit burst 64kb latency 500ms"
)

func (t *target) namespace() string { return fmt.Sprintf("hf-spdk%d", t.number) }

// port is the target's place at the bridge.
func (t *target) port() string { return fmt.Sprintf("hf%d", t.number) }

// ip is the target's address, next to stack.Address.
func (t *target) ip() string {
	return stack.Address[:strings.LastIndex(stack.Address, ".")+1] + fmt.Sprint(10+t.number)
}

// joinNetworks makes the namespaces and what is between them.
func (l *lab) joinNetworks() error {
	l.partNetworks()
	steps := []string{
		"netns add " + testsNamespace, "-n " + testsNamespace + " link set lo up",
		"-n " + testsNamespace + " link add " + bridge + " type bridge", "-n " + testsNamespace + " address add " + stack.Address + "/24 dev " + bridge,
		"-n " + testsNamespace + " link set " + bridge + " up",
	}
	for i := 1; i <= l.count; i++ {
		t := l.target(i)
		steps = append(steps,
			"netns add "+t.namespace(), "-n "+t.namespace()+" link set lo up",
			"-n "+testsNamespace+" link add "+t.port()+" type veth peer name eth0 netns "+t.namespace(),
			"-n "+testsNamespace+" link set "+t.port()+" master "+bridge+" up",
			"-n "+t.namespace()+" address add "+t.ip()+"/24 dev eth0", "-n "+t.namespace()+" link set eth0 up",
		)
	}
	for _, step := range steps {
		if err := command("ip", step); err != nil {
			return err
		}
	}
	return nil
}

// partNetworks removes them, as far as they are there.
func (l *lab) partNetworks() {
	_ = command("ip", "netns delete "+testsNamespace)
	for i := 1; i <= l.count; i++ {
		_ = command("ip", "netns delete "+l.target(i).namespace())
	}
}

// cut drops every packet to and from the target: its place at the bridge is empty, and nobody is told.
func (t *target) cut(on bool) error {
	if on {
		return command("ip", "-n "+testsNamespace+" link set "+t.port()+" nomaster")
	}
	return command("ip", "-n "+testsNamespace+" link set "+t.port()+" master "+bridge)
}

// slow has every packet to and from the target take its time.
func (t *target) slow(on bool) error {
	for _, end := range []string{"-n " + testsNamespace + " qdisc %s dev " + t.port(), "-n " + t.namespace() + " qdisc %s dev eth0"} {
		if !on {
			if err := command("tc", fmt.Sprintf(end, "delete")+" root"); err != nil {
				return err
			}
			continue
		}
		err := command("tc", fmt.Sprintf(end, "replace")+" root "+delayed)
		if err != nil {
			err = command("tc", fmt.Sprintf(end, "replace")+" root "+narrow)
		}
		if err != nil {
			return fmt.Errorf("%w (it needs the kernel's sch_netem or sch_tbf): %w", errCantDo, err)
		}
	}
	return nil
}

func command(program, arguments string) error {
	out, err := exec.Command(program, strings.Fields(arguments)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, arguments, err, strings.TrimSpace(string(out)))
	}
	return nil
}
