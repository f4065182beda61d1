package operator_test

import (
	"context"
	"slices"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// stages collects the stages of a move.
func stages(into *[]operator.Stage) func(*volume.Volume, operator.Stage) {
	return func(_ *volume.Volume, s operator.Stage) { *into = append(*into, s) }
}

func TestMoveIsOverWhenTheVolumeRunsThere(t *testing.T) {
	b := newBench(t, 2)
	v := b.volume("x", "n1", "n2")
	b.claim(v.ID, "n1")
	_, err := b.Move(t.Context(), v.ID, "n2")
	b.must(err)
	var told []operator.Stage
	b.must(b.Await(t.Context(), v.ID, "n2", stages(&told)))
	want := []operator.Stage{operator.StageAsked, operator.StagePrepared, operator.StageSwitching, operator.StageMoved}
	if !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	if v := b.Record(v.ID); v.Assembly.RaidHost != "n2" || v.MoveTo != "" {
		t.Errorf("it runs as %+v and is to move to %q", v.Assembly, v.MoveTo)
	}
}

func TestMoveWaitsForARebuild(t *testing.T) {
	b := newBench(t, 2)
	b.owner.idle = true
	v := b.volume("x", "n1", "n2")
	b.claim(v.ID, "n1")
	_, err := b.Move(t.Context(), v.ID, "n2")
	b.must(err)
	b.set(v.ID, "n2", volume.ReplicaRebuilding)
	ctx, cancel := context.WithCancel(t.Context())
	var told []operator.Stage
	err = b.Await(ctx, v.ID, "n2", func(_ *volume.Volume, s operator.Stage) {
		told = append(told, s)
		cancel()
	})
	wantError(t, err, context.Canceled)
	if !slices.Equal(told, []operator.Stage{operator.StageWaiting}) {
		t.Errorf("told %v", told)
	}
	if v := b.Record(v.ID); v.MoveTo != "n2" {
		t.Error("the wish is gone with the wait")
	}
}

func TestMoveThatTheOwnerGivesUpIsReported(t *testing.T) {
	b := newBench(t, 2)
	b.owner.refuses = true
	v := b.volume("x", "n1", "n2")
	b.claim(v.ID, "n1")
	_, err := b.Move(t.Context(), v.ID, "n2")
	b.must(err)
	wantError(t, b.Await(t.Context(), v.ID, "n2", func(*volume.Volume, operator.Stage) {}), operator.ErrRefused)
}

func TestAwaitEndsWhenTheVolumeIsUnstagedOrAskedElsewhere(t *testing.T) {
	b := newBench(t, 3)
	b.owner.idle = true
	for name, change := range map[string]func(v *volume.Volume){
		"unstaged":        func(v *volume.Volume) { v.Owner = "" },
		"stopping":        func(v *volume.Volume) { v.Assembly.Stopping = true },
		"unpublished":     func(v *volume.Volume) { v.Assembly = nil },
		"asked elsewhere": func(v *volume.Volume) { v.MoveTo = "n3" },
	} {
		t.Run(name, func(t *testing.T) {
			v := b.volume(name, "n1", "n2", "n3")
			b.claim(v.ID, "n1")
			_, err := b.Move(t.Context(), v.ID, "n2")
			b.must(err)
			b.change(v.ID, change)
			if err := b.Await(t.Context(), v.ID, "n2", func(*volume.Volume, operator.Stage) {}); err == nil {
				t.Error("it waits on")
			}
		})
	}
}

func TestAskingForWhereItRunsWithdrawsTheWish(t *testing.T) {
	b := newBench(t, 2)
	b.owner.idle = true
	v := b.volume("x", "n1", "n2")
	b.claim(v.ID, "n1")
	for _, step := range []struct{ to, wish string }{{"n2", "n2"}, {"n1", ""}, {"n1", ""}} {
		_, err := b.Move(t.Context(), v.ID, step.to)
		b.must(err)
		if got := b.Record(v.ID).MoveTo; got != step.wish {
			t.Fatalf("after a move to %s the wish is %q, want %q", step.to, got, step.wish)
		}
	}
	b.must(b.Await(t.Context(), v.ID, "n1", func(*volume.Volume, operator.Stage) {}))
}

func TestMoveIsRefusedWhereItCanNotBeDone(t *testing.T) {
	b := newBench(t, 4)
	b.Sim("n3").Kill()
	b.must(b.Cordon(t.Context(), "n4", true))
	for name, test := range map[string]struct {
		change func(v *volume.Volume)
		to     string
		want   error
	}{
		"unpublished":    {func(v *volume.Volume) { v.Assembly, v.Owner, v.Publications = nil, "", nil }, "n2", operator.ErrRefused},
		"stopping":       {func(v *volume.Volume) { v.Assembly.Stopping = true }, "n2", operator.ErrRefused},
		"not staged":     {func(v *volume.Volume) { v.Owner = "" }, "n2", operator.ErrRefused},
		"deleting":       {func(v *volume.Volume) { v.Phase = volume.PhaseDeleting }, "n2", operator.ErrRefused},
		"retired there":  {func(v *volume.Volume) { v.Retired = []volume.Assembly{{Number: 7, RaidHost: "n2"}} }, "n2", volume.ErrBusy},
		"cordoned":       {func(*volume.Volume) {}, "n4", operator.ErrRefused},
		"node down":      {func(*volume.Volume) {}, "n3", volume.ErrNodeDown},
		"node not known": {func(*volume.Volume) {}, "n9", volume.ErrNodeUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			v := b.volume(name, "n1", "n2")
			b.claim(v.ID, "n1")
			b.change(v.ID, test.change)
			_, err := b.Move(t.Context(), v.ID, test.to)
			wantError(t, err, test.want)
			if v := b.Record(v.ID); v.MoveTo != "" {
				t.Errorf("the wish for %s is on record", v.MoveTo)
			}
		})
	}
}
