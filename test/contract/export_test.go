package contract

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk"
)

// wanted is an export as it is read back.
func wanted(e spdk.Export, canonical string) spdk.Export {
	e.Bdev = canonical
	e.NGUID = strings.ReplaceAll(e.NSUUID.String(), "-", "")
	if e.MaxCNTLID == 0 {
		e.MinCNTLID, e.MaxCNTLID = 1, 0xffef
	}
	slices.Sort(e.Hosts)
	return e
}

func sameExport(a, b spdk.Export) bool {
	hosts := slices.Equal(a.Hosts, b.Hosts)
	a.Hosts, b.Hosts = nil, nil
	return hosts && a.NQN == b.NQN && a.Serial == b.Serial && a.Model == b.Model && a.Bdev == b.Bdev && a.NSUUID == b.NSUUID &&
		a.NGUID == b.NGUID && a.Listen == b.Listen && a.MinCNTLID == b.MinCNTLID && a.MaxCNTLID == b.MaxCNTLID &&
		a.ANAReporting == b.ANAReporting && a.ANAState == b.ANAState
}

func checkExported(t *testing.T, tg *target, want spdk.Export) {
	t.Helper()
	got, err := tg.Exported(t.Context(), want.NQN)
	if err != nil || !sameExport(got, want) {
		t.Errorf("exported is\n%+v, %v; wanted is\n%+v", got, err, want)
	}
}

func TestExportIsMadeAsSpecifiedAndFoundAgain(t *testing.T) {
	tg := targets(t, 1)[0]
	l := newLvol(t, tg, volumeSize)
	for _, ana := range []bool{false, true} {
		e := exportLvol(t, l, userNQN, userNQN+"2")
		if ana {
			e.ANAReporting, e.ANAState, e.MinCNTLID, e.MaxCNTLID = true, spdk.ANAInaccessible, 200, 299
		}
		export(t, tg, e)
		checkExported(t, tg, wanted(e, l.UUID))
		ok(t, tg.Export(t.Context(), e))
		checkExported(t, tg, wanted(e, l.UUID))
		all, err := tg.Exports(t.Context())
		ok(t, err)
		i := slices.IndexFunc(all, func(x spdk.Export) bool { return x.NQN == e.NQN })
		without := wanted(e, l.UUID)
		without.ANAState = ""
		if i < 0 || !sameExport(all[i], without) {
			t.Errorf("%+v is not among %+v", without, all)
		}
		ok(t, tg.Unexport(t.Context(), e.NQN))
		ok(t, tg.Unexport(t.Context(), e.NQN))
		if _, err := tg.Exported(t.Context(), e.NQN); !errors.Is(err, spdk.ErrNotFound) {
			t.Errorf("unexported: %v", err)
		}
	}
}

func TestExportIsCorrectedInPlace(t *testing.T) {
	tg := targets(t, 1)[0]
	l, other := newLvol(t, tg, volumeSize), newLvol(t, tg, volumeSize)
	e := exportLvol(t, l, userNQN, userNQN+"2")
	e.ANAReporting, e.ANAState = true, spdk.ANAOptimized
	export(t, tg, e)
	e.Hosts = []string{userNQN + "2", userNQN + "3"}
	e.Listen = freeAddress(t)
	e.ANAState = spdk.ANANonOptimized
	e.NSUUID = uuid.New()
	e.Bdev = other.LvStore + "/" + other.Name
	ok(t, tg.Export(t.Context(), e))
	checkExported(t, tg, wanted(e, other.UUID))
}

func TestExportKeepsHostsThatMayStay(t *testing.T) {
	tg := targets(t, 1)[0]
	l := newLvol(t, tg, volumeSize)
	e := exportLvol(t, l, userNQN, userNQN+"2")
	export(t, tg, e)
	e.Hosts, e.KeepHosts = []string{userNQN + "3"}, true
	ok(t, tg.Export(t.Context(), e))
	e.Hosts = []string{userNQN, userNQN + "2", userNQN + "3"}
	checkExported(t, tg, wanted(e, l.UUID))
}

func TestExportWithoutItsNamespaceGetsItBack(t *testing.T) {
	tg := targets(t, 1)[0]
	l := newLvol(t, tg, volumeSize)
	e := exportLvol(t, l, userNQN)
	e.ANAReporting, e.ANAState = true, spdk.ANAInaccessible
	export(t, tg, e)
	ok(t, spdk.NVMfSubsystemRemoveNS(t.Context(), tg.rpc, spdk.NVMfSubsystemRemoveNSParams{NQN: e.NQN, NSID: 1}))
	got, err := tg.Exported(t.Context(), e.NQN)
	if err != nil || got.Bdev != "" || !got.ANAReporting {
		t.Errorf("without its namespace: %+v, %v", got, err)
	}
	e.ANAState = spdk.ANAOptimized
	ok(t, tg.Export(t.Context(), e))
	checkExported(t, tg, wanted(e, l.UUID))
}

func TestWhatSPDKCannotChangeIsAConflictOnlyWhileTheExportListens(t *testing.T) {
	tg := targets(t, 1)[0]
	l := newLvol(t, tg, volumeSize)
	e := exportLvol(t, l, userNQN)
	e.MinCNTLID, e.MaxCNTLID = 1, 100
	export(t, tg, e)
	for name, change := range map[string]func(*spdk.Export){
		"serial":         func(e *spdk.Export) { e.Serial = "OTHER" },
		"model":          func(e *spdk.Export) { e.Model = "other" },
		"controller ids": func(e *spdk.Export) { e.MinCNTLID, e.MaxCNTLID = 101, 200 },
		"ANA":            func(e *spdk.Export) { e.ANAReporting, e.ANAState = true, spdk.ANAOptimized },
	} {
		changed := e
		change(&changed)
		if err := tg.Export(t.Context(), changed); !errors.Is(err, spdk.ErrConflict) {
			t.Errorf("%s: %v, want a conflict", name, err)
		}
	}
	checkExported(t, tg, wanted(e, l.UUID))
	ok(t, spdk.NVMfSubsystemRemoveListener(t.Context(), tg.rpc, spdk.NVMfListenerParams{NQN: e.NQN, ListenAddress: spdk.ListenAddress{
		Trtype: "TCP", Adrfam: "IPv4", Traddr: e.Listen.Host, Trsvcid: port(e.Listen),
	}}))
	e.Serial = "OTHER"
	ok(t, tg.Export(t.Context(), e))
	checkExported(t, tg, wanted(e, l.UUID))
}

func TestExportOfAMissingBdevIsNotFoundAndListensNowhere(t *testing.T) {
	tg := targets(t, 1)[0]
	e := exportLvol(t, spdk.Lvol{LvStore: tg.lvs.Name, Name: unique()}, userNQN)
	atEnd(t, "unexport", func(ctx context.Context) error { return tg.Unexport(ctx, e.NQN) })
	if err := tg.Export(t.Context(), e); !errors.Is(err, spdk.ErrNotFound) {
		t.Errorf("%v, want not found", err)
	}
	if got, err := tg.Exported(t.Context(), e.NQN); err != nil || got.Listen.Port != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestExportClosesASubsystemThatAllowsAnyHost(t *testing.T) {
	tg := targets(t, 1)[0]
	l := newLvol(t, tg, volumeSize)
	e := exportLvol(t, l, userNQN)
	export(t, tg, e)
	ok(t, spdk.NVMfSubsystemAllowAnyHost(t.Context(), tg.rpc, spdk.NVMfAllowAnyHostParams{NQN: e.NQN, AllowAnyHost: true}))
	if h, err := connect(t, e, userNQN+":stranger"); err != nil {
		t.Errorf("a stranger, while any host is allowed: %v", err)
	} else {
		h.Close()
	}
	ok(t, tg.Export(t.Context(), e))
	if _, err := connect(t, e, userNQN+":stranger"); err == nil {
		t.Error("a stranger could connect")
	}
	mustConnect(t, e, userNQN)
}

// Fact 9: the identity of the exported namespace is its own, not the lvol's.
func TestNamespaceHasTheIdentityThatWasGiven(t *testing.T) {
	tg := targets(t, 1)[0]
	l := newLvol(t, tg, volumeSize)
	e := exportLvol(t, l, userNQN)
	export(t, tg, e)
	namespaces, err := mustConnect(t, e, userNQN).Namespaces(t.Context())
	ok(t, err)
	if len(namespaces) != 1 || namespaces[0].NSID != 1 || namespaces[0].UUID != e.NSUUID || namespaces[0].NGUID != e.NSUUID ||
		namespaces[0].SizeBytes != volumeSize {
		t.Errorf("%+v, want one with UUID and NGUID %s", namespaces, e.NSUUID)
	}
}

func TestControllerIDsAreFromTheRangeThatWasGiven(t *testing.T) {
	tg := targets(t, 1)[0]
	e := exportLvol(t, newLvol(t, tg, volumeSize), userNQN)
	e.MinCNTLID, e.MaxCNTLID = 3000, 3001
	export(t, tg, e)
	if id := mustConnect(t, e, userNQN).CNTLID(); id < 3000 || id > 3001 {
		t.Errorf("controller id %d", id)
	}
}
