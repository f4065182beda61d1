package nvmetcp

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/sim/memnet"
)

// A target may round a keep-alive timeout up. Linux goes by what it asked for all the same.
func TestHeadGivesAHungTargetUpByTheKeepAliveThatItAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		tgt := NewTarget(TargetConfig{Listen: network.Listen, KeepAliveUnits: 1, MinKATO: 10 * time.Second})
		defer tgt.Close()
		sub, err := tgt.AddSubsystem(SubsystemConfig{NQN: testNQN})
		if err == nil {
			err = tgt.Listen("10.0.0.1:4420")
		}
		if err == nil {
			err = sub.AddListener("10.0.0.1:4420")
		}
		if err == nil {
			err = sub.AddNamespace(NamespaceConfig{NSID: 1, Device: newMemDisk(4096, 1<<20), UUID: testUUID})
		}
		sub.AllowHost(testHost)
		h := NewHead(HeadConfig{SubNQN: testNQN, HostNQN: testHost, UUID: testUUID, Dial: network.Dial})
		defer h.Close()
		if err == nil {
			err = h.AddPath(t.Context(), PathConfig{Addr: "10.0.0.1:4420", KATO: time.Second})
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if state := h.Paths()[0].State; state != PathLive {
			t.Fatalf("an idle path is %s", state)
		}
		tgt.SetHung(true)
		hung := time.Now()
		for h.Paths()[0].State == PathLive {
			<-h.Changed()
		}
		if took := time.Since(hung); took < time.Second/2 || took > 3*time.Second/2 {
			t.Errorf("the target was given up after %v", took)
		}
		tgt.SetHung(false)
	})
}
