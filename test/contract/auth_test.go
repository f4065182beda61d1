package contract

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/spdk"
)

// keyed returns a target as one that can be given keys: the test runs on its machine, and as its user.
func keyed(t *testing.T, tg *target) *target {
	t.Helper()
	with := *tg
	with.Node = spdk.NewNode(tg.Name(), keyDir(t).Caller(tg.rpc))
	return &with
}

// keyDir is a directory for keys; everything in it is this process's own.
func keyDir(t *testing.T) spdk.KeyDir {
	t.Helper()
	dir := t.TempDir()
	socket := dir + "/owner"
	ok(t, os.WriteFile(socket, nil, 0o600))
	return spdk.KeyDir{Path: dir + "/keys", Socket: socket}
}

// newKeys makes keys of these values, which are dropped from the target at the end.
func newKeys(t *testing.T, on *target, host, controller byte) spdk.Keys {
	t.Helper()
	name := "hf-ct-" + uuid.NewString()[:8]
	atEnd(t, "drop keys", func(ctx context.Context) error { return on.DropKeys(ctx, name) })
	key := func(end string, value byte) spdk.Key {
		return spdk.NewKey(name+end, []byte(strings.Repeat(string(rune('a'+value)), 32)))
	}
	return spdk.Keys{Host: key("-h", host), Controller: key("-c", controller)}
}

// authenticated makes a replica on the second target that the first may attach with keys of values 1 and 2.
func authenticated(t *testing.T) (raidHost, on *target, r *replica) {
	t.Helper()
	all := targets(t, 2)
	raidHost, on = keyed(t, all[0]), keyed(t, all[1])
	l := newLvol(t, on, volumeSize)
	e := exportLvol(t, l, raidHost.hostNQN)
	e.HostKeys = map[string]spdk.Keys{raidHost.hostNQN: newKeys(t, on, 1, 2)}
	export(t, on, e)
	return raidHost, on, &replica{on: on, lvol: l, export: e}
}

func TestLegAuthenticatesInBothDirections(t *testing.T) {
	raidHost, on, r := authenticated(t)
	leg := r.leg(raidHost)
	leg.Keys = newKeys(t, raidHost, 1, 2)
	if s := attachLeg(t, raidHost, leg); s.Bdev == "" || s.State != spdk.LegEnabled {
		t.Errorf("attached %+v", s)
	}
	ok(t, on.Export(t.Context(), r.export)) // again, as after a crash
	if s, err := raidHost.AttachLeg(t.Context(), leg); err != nil || s.State != spdk.LegEnabled {
		t.Errorf("again %+v, %v", s, err)
	}
	s, err := spdk.NVMfGetSubsystems(t.Context(), on.rpc, spdk.NVMfGetSubsystemsParams{NQN: r.export.NQN})
	ok(t, err)
	if len(s) != 1 || len(s[0].Hosts) != 1 || s[0].Hosts[0].NQN != raidHost.hostNQN {
		t.Errorf("hosts %+v", s)
	}
}

func TestLegWithoutTheRightKeysCannotAttach(t *testing.T) {
	raidHost, _, r := authenticated(t)
	for name, keys := range map[string]spdk.Keys{
		"no keys": {}, "another host's key": newKeys(t, raidHost, 3, 2), "another key of the controller": newKeys(t, raidHost, 1, 3),
		"no key of the controller that it has": {Host: newKeys(t, raidHost, 2, 2).Host},
	} {
		leg := r.leg(raidHost)
		leg.Keys = keys
		atEnd(t, "detach", func(ctx context.Context) error { return raidHost.DetachLeg(ctx, leg.Controller) })
		if s, err := raidHost.AttachLeg(t.Context(), leg); err == nil {
			t.Errorf("%s: attached %+v", name, s)
		}
	}
}

// A controller that doesn't ask for authentication can't prove itself, so that a raid host that wants it to doesn't attach.
func TestLegDoesNotTrustAnExportWithoutKeys(t *testing.T) {
	all := targets(t, 2)
	raidHost := keyed(t, all[0])
	r := newReplica(t, all[1], volumeSize, raidHost)
	leg := r.leg(raidHost)
	leg.Keys = newKeys(t, raidHost, 1, 2)
	atEnd(t, "detach", func(ctx context.Context) error { return raidHost.DetachLeg(ctx, leg.Controller) })
	if s, err := raidHost.AttachLeg(t.Context(), leg); err == nil {
		t.Errorf("attached %+v", s)
	}
}

// SPDK reads a key's file for each authentication, and a connection that is there needs it no more.
func TestDroppedKeysKeepTheConnectionAndNoOther(t *testing.T) {
	raidHost, on, r := authenticated(t)
	leg := r.leg(raidHost)
	leg.Keys = newKeys(t, raidHost, 1, 2)
	s := attachLeg(t, raidHost, leg)
	host := r.export.HostKeys[raidHost.hostNQN]
	ok(t, on.DropKeys(t.Context(), strings.TrimSuffix(host.Host.Name, "h")))
	ok(t, on.DropKeys(t.Context(), strings.TrimSuffix(host.Host.Name, "h")))
	if now, err := raidHost.Leg(t.Context(), s.Controller); err != nil || now.State != spdk.LegEnabled {
		t.Errorf("%+v, %v", now, err)
	}
	ok(t, raidHost.DetachLeg(t.Context(), leg.Controller))
	if s, err := raidHost.AttachLeg(t.Context(), leg); err == nil {
		t.Errorf("attached %+v with a key that was dropped", s)
	}
	ok(t, on.Export(t.Context(), r.export)) // puts it again
	if s, err := raidHost.AttachLeg(t.Context(), leg); err != nil || s.Bdev == "" {
		t.Errorf("%+v, %v", s, err)
	}
}

// A further host of an export that is in use has keys of its own: it can't be another, nor another it. When it is fenced off and its keys are
// dropped, the others go on and connect again.
func TestEachHostHasKeysOfItsOwn(t *testing.T) {
	raidHost, on, r := authenticated(t)
	first := r.leg(raidHost)
	first.Keys = newKeys(t, raidHost, 1, 2)
	attachLeg(t, raidHost, first)
	further, theirs := uniqueNQN(), newKeys(t, on, 3, 4)
	for range 2 {
		ok(t, on.AllowHostWith(t.Context(), r.export.NQN, further, theirs))
	}
	second := first
	second.Controller, second.HostNQN = unique(), further
	if s, err := raidHost.AttachLeg(t.Context(), second); err == nil {
		t.Errorf("attached %+v with another host's keys", s)
	}
	ok(t, raidHost.DetachLeg(t.Context(), second.Controller))
	ok(t, raidHost.DetachLeg(t.Context(), first.Controller)) // a process attaches a namespace once
	second.Keys = newKeys(t, raidHost, 3, 4)
	if s := attachLeg(t, raidHost, second); s.State != spdk.LegEnabled {
		t.Errorf("attached %+v", s)
	}
	ok(t, on.FenceHost(t.Context(), r.export.NQN, further))
	ok(t, on.DropKeys(t.Context(), strings.TrimSuffix(theirs.Host.Name, "h")))
	ok(t, raidHost.DetachLeg(t.Context(), second.Controller))
	if s, err := raidHost.AttachLeg(t.Context(), second); err == nil {
		t.Errorf("attached %+v though it is fenced off", s)
	}
	ok(t, raidHost.DetachLeg(t.Context(), second.Controller))
	if s := attachLeg(t, raidHost, first); s.State != spdk.LegEnabled {
		t.Errorf("the other host: attached %+v", s)
	}
}

// What is to be kept is, and the rest goes.
func TestKeysAreDroppedByPrefixButThoseToKeep(t *testing.T) {
	tg := keyed(t, targets(t, 1)[0])
	keys := newKeys(t, tg, 1, 2)
	ok(t, tg.PutKeys(t.Context(), keys))
	prefix := strings.TrimSuffix(keys.Host.Name, "h")
	ok(t, tg.DropKeys(t.Context(), prefix, keys.Controller.Name))
	all, err := spdk.KeyringGetKeys(t.Context(), tg.rpc)
	ok(t, err)
	var left []string
	for _, k := range all {
		if strings.HasPrefix(k.Name, prefix) {
			left = append(left, k.Name)
		}
	}
	if !slices.Equal(left, []string{keys.Controller.Name}) {
		t.Errorf("left are %v", left)
	}
}

// SPDK takes no key from a file that others may read, none by a name that is taken, and forgets none that isn't there.
func TestKeyringRefusesWhatIsUnsafe(t *testing.T) {
	tg := targets(t, 1)[0]
	dir := t.TempDir()
	add := func(name, path string) error {
		return tg.rpc.Call(t.Context(), "keyring_file_add_key", map[string]string{"name": name, "path": path}, nil)
	}
	file := func(name string, mode os.FileMode) string {
		ok(t, os.WriteFile(dir+"/"+name, []byte("x"), mode))
		ok(t, os.Chmod(dir+"/"+name, mode))
		return dir + "/" + name
	}
	name := unique()
	ok(t, add(name, file("good", 0o600)))
	atEnd(t, "remove the key", func(ctx context.Context) error {
		return tg.rpc.Call(ctx, "keyring_file_remove_key", map[string]string{"name": name}, nil)
	})
	for what, tc := range map[string]struct {
		err  error
		want unix.Errno
	}{
		"readable by others": {add(unique(), file("open", 0o644)), unix.EPERM},
		"no absolute path":   {add(unique(), "relative"), unix.EPERM},
		"absent":             {add(unique(), dir+"/absent"), unix.ENOENT},
		"name taken":         {add(name, dir+"/good"), unix.EEXIST},
		"nothing to remove":  {tg.rpc.Call(t.Context(), "keyring_file_remove_key", map[string]string{"name": unique()}, nil), unix.ENOKEY},
	} {
		if !spdk.IsErrno(tc.err, tc.want) {
			t.Errorf("%s: %v, want %v", what, tc.err, tc.want)
		}
	}
	keys, err := spdk.KeyringGetKeys(t.Context(), tg.rpc)
	if err != nil || len(keys) == 0 {
		t.Errorf("%v, %v", keys, err)
	}
}

func TestExportAndLegWithUnknownKeysAreRefused(t *testing.T) {
	all := targets(t, 2)
	r := newReplica(t, all[1], volumeSize)
	p := spdk.NVMfHostKeysParams{NQN: r.export.NQN, Host: all[0].hostNQN, DHCHAPKey: unique()}
	if err := spdk.NVMfSubsystemAddHost(t.Context(), all[1].rpc, p); !spdk.IsCode(err, spdk.CodeInvalidParams) {
		t.Errorf("add host: %v", err)
	}
	p.DHCHAPKey = ""
	if err := spdk.NVMfSubsystemSetKeys(t.Context(), all[1].rpc, p); !spdk.IsErrno(err, unix.EINVAL) {
		t.Errorf("set the keys of a host that isn't allowed: %v", err)
	}
	_, err := spdk.BdevNVMeAttachController(t.Context(), all[0].rpc, spdk.BdevNVMeAttachControllerParams{
		Name: unique(), Trtype: "TCP", Adrfam: "IPv4", Traddr: r.export.Listen.Host, Trsvcid: "4420", Subnqn: r.export.NQN, Hostnqn: all[0].hostNQN,
		Multipath: "disable", DHCHAPKey: unique(),
	})
	if !spdk.IsErrno(err, unix.ENOKEY) || errors.Is(err, spdk.ErrUnknownOutcome) {
		t.Errorf("attach: %v", err)
	}
}
