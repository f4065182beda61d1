package contract

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/spdk"
)

func TestVersionIsGiven(t *testing.T) {
	tg := targets(t, 1)[0]
	if v, err := tg.Version(t.Context()); err != nil || !strings.HasPrefix(v, "SPDK v") {
		t.Errorf("%q, %v", v, err)
	}
}

// Fact 10: the NVMe options cannot be changed once a controller is attached, and what is in
// force can be read.
func TestNVMeOptionsAreFixedByTheFirstController(t *testing.T) {
	tg := targets(t, 1)[0]
	before, err := tg.InForce(t.Context())
	ok(t, err)
	attach(t, tg, newReplica(t, tg, volumeSize, tg))
	other := before.NVMe
	other.KeepAliveMS += 1000
	other.TimeoutAdminUS += 1000
	have, err := tg.SetNVMeOptions(t.Context(), other)
	if !errors.Is(err, spdk.ErrInForceDiffers) || have != before.NVMe {
		t.Errorf("in force are %+v, %v; before it were %+v", have, err, before.NVMe)
	}
	err = spdk.BdevNVMeSetOptions(t.Context(), tg.rpc, spdk.BdevNVMeSetOptionsParams{ActionOnTimeout: "none", KeepAliveTimeoutMS: 10000})
	if !spdk.IsErrno(err, unix.EPERM) {
		t.Errorf("asked of SPDK: %v, want EPERM", err)
	}
	if have, err := tg.SetNVMeOptions(t.Context(), before.NVMe); err != nil || have != before.NVMe {
		t.Errorf("the same again: %+v, %v", have, err)
	}
}

func TestTransportIsMadeOnceAndItsOptionsAreReadBack(t *testing.T) {
	tg := targets(t, 1)[0]
	before, err := tg.InForce(t.Context())
	ok(t, err)
	if before.Transport == nil {
		t.Fatal("the target has no NVMe/TCP transport")
	}
	if have, err := tg.EnsureTransport(t.Context(), *before.Transport); err != nil || have != *before.Transport {
		t.Errorf("the same again: %+v, %v", have, err)
	}
	other := *before.Transport
	other.MinKATOms += 1000
	if have, err := tg.EnsureTransport(t.Context(), other); !errors.Is(err, spdk.ErrInForceDiffers) || have != *before.Transport {
		t.Errorf("others: %+v, %v", have, err)
	}
}

// Fact 27: what the driver reads out of codes, and how the same situation differs.
func TestErrorCodes(t *testing.T) {
	tg := targets(t, 1)[0]
	l := newLvol(t, tg, volumeSize)
	nqn, absent := uniqueNQN(), uniqueNQN()
	e := exportLvol(t, l, userNQN)
	e.NQN = nqn
	export(t, tg, e)
	type params = map[string]any
	listen := params{"trtype": "TCP", "adrfam": "IPv4", "traddr": e.Listen.Host, "trsvcid": port(e.Listen)}
	for _, c := range []struct {
		situation, method string
		params            any
		code              int
	}{
		{"unknown method", "no_such_method", nil, spdk.CodeMethodNotFound},
		{"unknown parameter", "bdev_get_bdevs", params{"label": "x"}, spdk.CodeInternalError},
		{"missing bdev", "bdev_get_bdevs", params{"name": unique()}, -int(unix.ENODEV)},
		{"missing lvstore", "bdev_lvol_create", params{"lvs_name": unique(), "lvol_name": unique(), "size_in_mib": 4}, -int(unix.ENODEV)},
		{"no lvstore named", "bdev_lvol_get_lvstores", params{}, -int(unix.EINVAL)},
		{"existing lvol", "bdev_lvol_create", params{"lvs_name": l.LvStore, "lvol_name": l.Name, "size_in_mib": 4}, -int(unix.EEXIST)},
		{"missing lvol to delete", "bdev_lvol_delete", params{"name": unique()}, -int(unix.ENODEV)},
		{"missing lvol to resize", "bdev_lvol_resize", params{"name": unique(), "size_in_mib": 4}, -int(unix.ENODEV)},
		{"missing lvol to snapshot", "bdev_lvol_snapshot", params{"lvol_name": unique(), "snapshot_name": unique()}, -int(unix.ENODEV)},
		{"missing raid to delete", "bdev_raid_delete", params{"name": unique()}, -int(unix.ENODEV)},
		{"missing raid to add to", "bdev_raid_add_base_bdev", params{"raid_bdev": unique(), "base_bdev": l.UUID}, -int(unix.ENODEV)},
		{"missing bdev to remove", "bdev_raid_remove_base_bdev", params{"name": unique()}, -int(unix.ENODEV)},
		{"bdev of no raid to remove", "bdev_raid_remove_base_bdev", params{"name": l.UUID}, -int(unix.ENODEV)},
		{"missing controller to detach", "bdev_nvme_detach_controller", params{"name": unique()}, -int(unix.ENODEV)},
		{"missing controller to get", "bdev_nvme_get_controllers", params{"name": unique()}, -int(unix.EINVAL)},
		{"missing controller to reset", "bdev_nvme_reset_controller", params{"name": unique()}, -int(unix.ENODEV)},
		{"missing null bdev to delete", "bdev_null_delete", params{"name": unique()}, -int(unix.ENODEV)},
		{"missing subsystem to get", "nvmf_get_subsystems", params{"nqn": absent}, spdk.CodeInvalidParams},
		{"missing subsystem to delete", "nvmf_delete_subsystem", params{"nqn": absent}, spdk.CodeInvalidParams},
		{"missing subsystem to list", "nvmf_subsystem_get_listeners", params{"nqn": absent}, spdk.CodeInvalidParams},
		{"existing subsystem", "nvmf_create_subsystem", params{"nqn": nqn}, spdk.CodeInternalError},
		{"controller ids the wrong way", "nvmf_create_subsystem", params{"nqn": absent, "min_cntlid": 9, "max_cntlid": 8}, spdk.CodeInvalidParams},
		{"missing host to remove", "nvmf_subsystem_remove_host", params{"nqn": nqn, "host": absent}, spdk.CodeInternalError},
		{"existing host", "nvmf_subsystem_add_host", params{"nqn": nqn, "host": userNQN}, spdk.CodeInternalError},
		{"existing listener", "nvmf_subsystem_add_listener", params{"nqn": nqn, "listen_address": listen}, spdk.CodeInvalidParams},
		{"missing bdev as namespace", "nvmf_subsystem_add_ns", params{"nqn": nqn, "namespace": params{"bdev_name": unique()}}, spdk.CodeInvalidParams},
		{"missing namespace", "nvmf_subsystem_remove_ns", params{"nqn": nqn, "nsid": 7}, spdk.CodeInvalidParams},
		{"existing transport", "nvmf_create_transport", params{"trtype": "TCP"}, spdk.CodeInternalError},
		{"ANA without reporting", "nvmf_subsystem_listener_set_ana_state", params{"nqn": nqn, "listen_address": listen, "ana_state": "inaccessible"}, spdk.CodeInternalError},
	} {
		if err := tg.rpc.Call(t.Context(), c.method, c.params, nil); !spdk.IsCode(err, c.code) {
			t.Errorf("%s: %s answers %v, want code %d", c.situation, c.method, err, c.code)
		}
	}
}
