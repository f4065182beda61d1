package volume

import (
	"testing"
	"time"
)

func TestJudgeRecordsALegBeforeItCanBeWrittenWithout(t *testing.T) {
	const settle = 10 * time.Second
	good, away, gone := LegHealth{Member: true, Connected: true}, LegHealth{Member: true}, LegHealth{Connected: true}
	begin := time.Unix(1000, 0)
	for name, c := range map[string]struct {
		from ReplicaState
		seen []LegHealth // one a second
		want ReplicaState
	}{
		"healthy":                        {ReplicaInSync, []LegHealth{good, good}, ReplicaInSync},
		"controller away":                {ReplicaInSync, []LegHealth{good, away}, ReplicaSuspect},
		"ejected while connected":        {ReplicaInSync, []LegHealth{good, gone}, ReplicaOutOfSync},
		"ejected after suspicion":        {ReplicaInSync, []LegHealth{away, away, {}}, ReplicaOutOfSync},
		"back, but not for long":         {ReplicaInSync, []LegHealth{away, good, good}, ReplicaSuspect},
		"back for good":                  {ReplicaInSync, append([]LegHealth{away}, steady(good, 12)...), ReplicaInSync},
		"flapping never settles":         {ReplicaInSync, append(append([]LegHealth{away}, steady(good, 8)...), append([]LegHealth{away}, steady(good, 8)...)...), ReplicaSuspect},
		"out-of-sync stays":              {ReplicaOutOfSync, steady(good, 20), ReplicaOutOfSync},
		"listed again after an ejection": {ReplicaInSync, append([]LegHealth{{}}, steady(good, 20)...), ReplicaOutOfSync},
	} {
		t.Run(name, func(t *testing.T) {
			v := record("a", "b")
			v.Replicas[0].State, v.Replicas[1].State = c.from, ReplicaInSync
			v.Assembly = &Assembly{Legs: ids(v)}
			since := map[string]Steady{}
			for i, leg := range c.seen {
				now := begin.Add(time.Duration(i) * time.Second)
				for id, state := range Judge(v, map[string]LegHealth{v.Replicas[0].ID: leg, v.Replicas[1].ID: goodLeg}, since, settle, now) {
					v.SetReplicaState(id, state, now)
				}
			}
			if got := v.Replicas[0].State; got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func steady(leg LegHealth, n int) []LegHealth {
	seen := make([]LegHealth, n)
	for i := range seen {
		seen[i] = leg
	}
	return seen
}
