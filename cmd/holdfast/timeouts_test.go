package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/timeouts"
)

// output runs holdfast with the given arguments.
func output(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := root()
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(t.Context())
	return out.String(), errs.String(), err
}

func TestTimeoutsPrintsEachValueWithItsPlaceAndEachFault(t *testing.T) {
	out, _, err := output(t, "timeouts", "--stall", "10s", "--target-loss", "5m")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out, "\n")
	for _, want := range [][]string{
		{"keep-alive", "SPDK node", "2s", "bdev_nvme_set_options", "keep_alive_timeout_ms=2000"},
		{"keep-alive granted", "nvmf_create_transport", "kas=5 min_kato=2000"},
		{"I/O timeout", "4s", "timeout_us=4000000 action_on_timeout=reset"},
		{"ACK timeout", "512ms", "transport_ack_timeout=9"},
		{"fast I/O fail", "leg", "2s", "bdev_nvme_attach_controller", "fast_io_fail_timeout_sec=2"},
		{"controller loss", "host", "5m0s", "/dev/nvme-fabrics", "ctrl_loss_tmo=300"},
		{"replica: process killed", "0s", "3s"},
		{"replica: process hung", "3s"},
		{"replica: disk hung", "4s", "8s", "-"},
		{"raid host: process killed", "5m0s"},
	} {
		if !anyHasAll(lines, want) {
			t.Errorf("no line has all of %q in\n%s", want, out)
		}
	}
}

func anyHasAll(lines, parts []string) bool {
	for _, line := range lines {
		all := true
		for _, p := range parts {
			all = all && strings.Contains(line, p)
		}
		if all {
			return true
		}
	}
	return false
}

func TestTimeoutsAsJSONSaysTheSame(t *testing.T) {
	out, _, err := output(t, "timeouts", "--output", "json")
	if err != nil {
		t.Fatal(err)
	}
	var r timeoutReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	want, err := newTimeoutReport(timeouts.DefaultBudgets())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Settings) != len(want.Settings) || len(r.Faults) != len(want.Faults) || r.ReplicaStall != "20s" || r.Faults[0] != want.Faults[0] {
		t.Errorf("got %+v, want %+v", r, want)
	}
	if _, _, err := output(t, "timeouts", "--output", "yaml"); err == nil {
		t.Error("yaml is no format")
	}
}

func TestBudgetsThatBreakTheInvariantAreRefusedWithTheLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"timeouts", "--stall", "5s"}, "breaks line 3"},
		{[]string{"timeouts", "--stall", "10s", "--target-loss", "10s"}, "breaks line 6"},
		{[]string{"timeouts", "--stall", "40s"}, "breaks line 4"},
		{[]string{"timeouts", "--stall", "10500ms"}, "whole seconds"},
		{[]string{"spdk-config", "--stall", "5s"}, "breaks line 3"},
		{[]string{"spdk-config", "--stall", "10500ms"}, "whole seconds"},
		{[]string{"spdk-config", "--poll-groups-mask", "2,3"}, "hexadecimal"},
		{[]string{"spdk-config", "--poll-groups-mask", "0x0"}, "hexadecimal"},
		{[]string{"spdk-config", "--aio", "/dev/sdb"}, "name=where it is"},
		{[]string{"spdk-config", "--aio", "d=/dev/sdb", "--nvme", "d=0000:01:00.0"}, "two disks of that name"},
	} {
		out, _, err := output(t, c.args...)
		if err == nil || !strings.Contains(err.Error(), c.want) || out != "" {
			t.Errorf("%q: printed %q, error %v", c.args, out, err)
		}
	}
}
