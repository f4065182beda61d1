package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
)

// Formats of the timeouts command.
const (
	outputText = "text"
	outputJSON = "json"
)

func timeoutsCommand() *cobra.Command {
	b, output := timeouts.DefaultBudgets(), outputText
	cmd := &cobra.Command{
		Use:   "timeouts",
		Short: "Print what follows from a pair of budgets: every timeout, where it is set, and the worst case of each fault",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := newTimeoutReport(b)
			if err != nil {
				return err
			}
			switch output {
			case outputText:
				return r.print(cmd.OutOrStdout())
			case outputJSON:
				return printJSON(cmd.OutOrStdout(), r)
			}
			return fmt.Errorf("--output %s: must be %s or %s", output, outputText, outputJSON)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&b.ReplicaStall, "stall", b.ReplicaStall, "replica stall budget: the longest that a write may wait for a replica that failed")
	flags.DurationVar(&b.TargetLoss, "target-loss", b.TargetLoss, "target loss budget: how long I/O waits, not fails, while the volume's target is gone")
	flags.StringVarP(&output, "output", "o", output, "text or json")
	return cmd
}

// timeoutReport is what the command prints. Durations are Go's, such as 1m30s.
type timeoutReport struct {
	ReplicaStall string          `json:"replicaStall"`
	TargetLoss   string          `json:"targetLoss"`
	Settings     []timeoutOption `json:"settings"`
	Faults       []faultReport   `json:"faults"`
}

// timeoutOption is one value and where it is set.
type timeoutOption struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	// Of says of what it is an option, SetBy which call or file sets it, and Option under what name and value.
	Of     string `json:"of"`
	SetBy  string `json:"setBy"`
	Option string `json:"option"`
}

// faultReport is the worst case of a fault; times that are none are left out.
type faultReport struct {
	Fault     string `json:"fault"`
	Detection string `json:"detection"`
	Stall     string `json:"stall"`
	Removal   string `json:"removal,omitempty"`
	Warning   string `json:"warning,omitempty"`
}

func newTimeoutReport(b timeouts.Budgets) (timeoutReport, error) {
	for _, d := range []time.Duration{b.ReplicaStall, b.TargetLoss} {
		if d%time.Second != 0 {
			return timeoutReport{}, fmt.Errorf("a budget of %s: must be whole seconds, such as 10s or 5m", d)
		}
	}
	v, err := timeouts.Derive(b)
	if err != nil {
		return timeoutReport{}, err
	}
	r := timeoutReport{ReplicaStall: b.ReplicaStall.String(), TargetLoss: b.TargetLoss.String(), Settings: timeoutOptions(v)}
	for _, l := range v.Losses() {
		f := faultReport{Fault: string(l.Fault), Detection: l.Detection.String(), Stall: l.Stall.String()}
		if l.Removal > 0 {
			f.Removal = l.Removal.String()
		}
		if l.Warning > 0 {
			f.Warning = l.Warning.String()
		}
		r.Faults = append(r.Faults, f)
	}
	return r, nil
}

// timeoutOptions lists the values with the names that SPDK and Linux have for them.
func timeoutOptions(v timeouts.Values) []timeoutOption {
	const (
		node, leg, host  = "SPDK node", "leg", "host"
		options, attach  = "bdev_nvme_set_options", "bdev_nvme_attach_controller"
		transport, linux = "nvmf_create_transport", "/dev/nvme-fabrics"
	)
	seconds := func(option string, d time.Duration) string { return option + "=" + strconv.Itoa(int(d.Seconds())) }
	o, t := converge.NVMeOptions(v.Node), converge.TransportOptions(v.Node)
	return []timeoutOption{
		{"keep-alive", v.Node.KeepAlive.String(), node, options, fmt.Sprintf("keep_alive_timeout_ms=%d", o.KeepAliveMS)},
		{"keep-alive granted", v.Node.MinKATO.String(), node, transport, fmt.Sprintf("kas=%d min_kato=%d", t.KASUnits, t.MinKATOms)},
		{"admin timeout", v.Node.AdminTimeout.String(), node, options, fmt.Sprintf("timeout_admin_us=%d", o.TimeoutAdminUS)},
		{"I/O timeout", v.Node.IOTimeout.String(), node, options, fmt.Sprintf("timeout_us=%d action_on_timeout=%s", o.TimeoutUS, o.ActionOnTimeout)},
		{"ACK timeout", v.Node.Ack().String(), node, options, fmt.Sprintf("transport_ack_timeout=%d", o.TransportAckTimeout)},
		{"reconnect delay", v.Leg.ReconnectDelay.String(), leg, attach, seconds("reconnect_delay_sec", v.Leg.ReconnectDelay)},
		{"fast I/O fail", v.Leg.FastIOFail.String(), leg, attach, seconds("fast_io_fail_timeout_sec", v.Leg.FastIOFail)},
		{"controller loss", v.Leg.CtrlrLoss.String(), leg, attach, seconds("ctrlr_loss_timeout_sec", v.Leg.CtrlrLoss)},
		{"keep-alive", v.Host.KeepAlive.String(), host, linux, seconds("keep_alive_tmo", v.Host.KeepAlive)},
		{"reconnect delay", v.Host.ReconnectDelay.String(), host, linux, seconds("reconnect_delay", v.Host.ReconnectDelay)},
		{"controller loss", v.Host.CtrlLoss.String(), host, linux, seconds("ctrl_loss_tmo", v.Host.CtrlLoss)},
		{"I/O timeout", timeouts.HostIOTimeout.String(), host, "Linux's default, relied on", seconds("nvme_core.io_timeout", timeouts.HostIOTimeout)},
	}
}

func (r timeoutReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(columns ...string) { fmt.Fprintln(w, strings.Join(columns, "\t")) }
	row("replica stall budget", r.ReplicaStall)
	row("target loss budget", r.TargetLoss)
	row()
	row("TIMEOUT", "OF", "VALUE", "SET BY", "AS")
	for _, s := range r.Settings {
		row(s.Name, s.Of, s.Value, s.SetBy, s.Option)
	}
	row()
	row("FAULT (at the worst)", "NOTICED AFTER", "I/O WAITS", "GIVEN UP AFTER", "WARNING")
	for _, f := range r.Faults {
		row(f.Fault, f.Detection, f.Stall, dash(f.Removal), dash(f.Warning))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprint(out, `
I/O waits: until it goes on for good, from the fault. It waits for a raid host until another assembly is in use, about a second with a
standby, and fails only after the target loss budget. Warning: how long after it was noticed no write is acknowledged without the replica.
`)
	return err
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// printJSON prints indented JSON.
func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
