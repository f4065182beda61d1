package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
)

// spdkConfigOptions say what an SPDK node's configuration is to hold.
type spdkConfigOptions struct {
	stall          time.Duration
	pollGroupsMask string
	// aio and nvme are disks, name=path and name=PCI address.
	aio, nvme []string
	// rebuildMiBPerSec bounds each rebuild; 0 is no limit.
	rebuildMiBPerSec uint32
}

func spdkConfigCommand() *cobra.Command {
	o := spdkConfigOptions{stall: timeouts.DefaultBudgets().ReplicaStall}
	cmd := &cobra.Command{
		Use:   "spdk-config",
		Short: "Print a JSON configuration for nvmf_tgt --json under which a node holds a replica stall budget",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := newSPDKConfig(o)
			if err != nil {
				return err
			}
			if o.pollGroupsMask == "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "holdfast: without --poll-groups-mask a resize of a volume can freeze the node for 30 s; "+
					"give the target two cores or more, and this the mask of all but the first")
			}
			return printJSON(cmd.OutOrStdout(), c)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&o.stall, "stall", o.stall, "the tightest replica stall budget that the node is to hold; longer ones hold, too")
	flags.StringVar(&o.pollGroupsMask, "poll-groups-mask", "", "cores of the NVMe-oF target: those of nvmf_tgt -m without the first, such as 0x2 for -m 0x3")
	flags.StringArrayVar(&o.aio, "aio", nil, "disk or file to use through the kernel, as name=path; may be given several times")
	flags.StringArrayVar(&o.nvme, "nvme", nil, "local NVMe disk to take from the kernel, as name=PCI address; may be given several times")
	flags.Uint32Var(&o.rebuildMiBPerSec, "rebuild-bandwidth", 0, "the most that a rebuild on this node may copy, in MiB per second, so that it leaves room for pods; 0 is no limit")
	return cmd
}

// spdkConfig is an SPDK JSON configuration, in the form and order of SPDK's own save_config (lib/init/json_config.c).
type spdkConfig struct {
	Subsystems []spdkSubsystem `json:"subsystems"`
}

type spdkSubsystem struct {
	Subsystem string     `json:"subsystem"`
	Config    []spdkCall `json:"config"`
}

// spdkCall is one JSON-RPC call that SPDK makes to itself while it starts.
type spdkCall struct {
	Method string `json:"method"`
	Params any    `json:"params,omitempty"`
}

// Parameters of calls that the driver itself never makes.
type (
	bdevSetOptionsParams struct {
		AutoExamine bool `json:"bdev_auto_examine"`
	}
	bdevAIOCreateParams struct {
		Name      string `json:"name"`
		Filename  string `json:"filename"`
		BlockSize int    `json:"block_size"`
	}
	bdevAttachDiskParams struct {
		Name   string `json:"name"`
		Trtype string `json:"trtype"`
		Traddr string `json:"traddr"`
	}
	bdevRaidSetOptionsParams struct {
		ProcessMaxBandwidthMBSec uint32 `json:"process_max_bandwidth_mb_sec"`
	}
	bdevExamineParams struct {
		Name string `json:"name"`
	}
	nvmfSetConfigParams struct {
		PollGroupsMask string   `json:"poll_groups_mask,omitempty"`
		DHCHAPGroups   []string `json:"dhchap_dhgroups"`
	}
)

// dhchapGroups are those that targets authenticate with. By default SPDK's take the largest that a host knows, of 8192 bits, with which the
// attachment of a leg keeps a core from all else for 2 s (docs/spdk.md, "Keys").
var dhchapGroups = []string{"ffdhe3072"}

// aioBlockSize is what lvstores on aio bdevs are read and written in.
const aioBlockSize = 4096

// newSPDKConfig returns the configuration. Contents of bdevs are not looked at but for those of the disks: a volume may hold what looks
// like an lvstore or a leg of a raid (docs/spdk.md). The options come before the first NVMe controller, after which SPDK refuses them.
func newSPDKConfig(o spdkConfigOptions) (spdkConfig, error) {
	if o.stall%time.Second != 0 {
		return spdkConfig{}, fmt.Errorf("--stall %s: must be whole seconds, such as 10s", o.stall)
	}
	v, err := timeouts.Derive(timeouts.Budgets{ReplicaStall: o.stall, TargetLoss: timeouts.DefaultBudgets().TargetLoss})
	if err != nil {
		return spdkConfig{}, err
	}
	disks, err := o.disks()
	if err != nil {
		return spdkConfig{}, err
	}
	bdev := []spdkCall{
		{"bdev_set_options", bdevSetOptionsParams{AutoExamine: false}},
		{"bdev_nvme_set_options", converge.NVMeOptions(v.Node).Params()},
	}
	if o.rebuildMiBPerSec > 0 {
		bdev = append(bdev, spdkCall{"bdev_raid_set_options", bdevRaidSetOptionsParams{ProcessMaxBandwidthMBSec: o.rebuildMiBPerSec}})
	}
	bdev = append(bdev, disks...)
	config := nvmfSetConfigParams{DHCHAPGroups: dhchapGroups}
	if o.pollGroupsMask != "" {
		if strings.Trim(strings.TrimPrefix(o.pollGroupsMask, "0x"), "0123456789abcdefABCDEF") != "" || strings.Trim(o.pollGroupsMask, "0x") == "" {
			return spdkConfig{}, fmt.Errorf("--poll-groups-mask %q: must be a mask of cores in hexadecimal, such as 0x2", o.pollGroupsMask)
		}
		config.PollGroupsMask = o.pollGroupsMask
	}
	nvmf := []spdkCall{{"nvmf_set_config", config}, {"nvmf_create_transport", converge.TransportOptions(v.Node).Params()}}
	return spdkConfig{Subsystems: []spdkSubsystem{{"bdev", bdev}, {"nvmf", nvmf}}}, nil
}

// disks returns the calls that make the disks and load the lvstores that are on them.
func (o spdkConfigOptions) disks() ([]spdkCall, error) {
	var calls, examine []spdkCall
	seen := map[string]bool{}
	parse := func(flag, disk string) (name, where string, err error) {
		name, where, ok := strings.Cut(disk, "=")
		switch {
		case !ok || name == "" || where == "":
			return "", "", fmt.Errorf("--%s %q: must be name=where it is", flag, disk)
		case seen[name]:
			return "", "", fmt.Errorf("--%s %q: there are two disks of that name", flag, disk)
		}
		seen[name] = true
		return name, where, nil
	}
	for _, disk := range o.aio {
		name, path, err := parse("aio", disk)
		if err != nil {
			return nil, err
		}
		calls = append(calls, spdkCall{"bdev_aio_create", bdevAIOCreateParams{Name: name, Filename: path, BlockSize: aioBlockSize}})
		examine = append(examine, spdkCall{"bdev_examine", bdevExamineParams{Name: name}})
	}
	for _, disk := range o.nvme {
		name, address, err := parse("nvme", disk)
		if err != nil {
			return nil, err
		}
		calls = append(calls, spdkCall{"bdev_nvme_attach_controller", bdevAttachDiskParams{Name: name, Trtype: "PCIe", Traddr: address}})
		examine = append(examine, spdkCall{"bdev_examine", bdevExamineParams{Name: spdk.LegBdev(name)}})
	}
	if len(calls) > 0 {
		calls = append(append(calls, examine...), spdkCall{Method: "bdev_wait_for_examine"})
	}
	return calls, nil
}
