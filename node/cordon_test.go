package node_test

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestStandbyGoesToACordonedNodeOnlyWhenTheVolumeHasNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwitchBench(t)
		defer s.end()
		third := s.third()
		s.must(s.Store.SetCordon(s.ctx, third, true))
		s.Sim(s.Record(s.id).Standby.RaidHost).Kill()
		s.until(func() bool { return s.Record(s.id).Standby == nil })
		s.must(s.check(time.Minute))
		if standby := s.Record(s.id).Standby; standby != nil {
			t.Errorf("a standby is on record on %s", standby.RaidHost)
		}
		s.Sim("n1").Kill()
		s.until(func() bool { a := s.Record(s.id).Assembly; return a.RaidHost == third && a.Running && !a.Held })
		s.must(s.check(10 * time.Second))
	})
}
