//go:build e2e

package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/stack"
)

// storeAway is how long the store is away.
func storeAway() time.Duration {
	if full() {
		return time.Minute
	}
	return 2 * stallBudget
}

// story is a trial with the driver's processes at hand.
type story struct {
	*trial
	vm *stack.VM
	// worst is the longest that a round took to be fully redundant again.
	worst time.Duration
}

// tell runs a story on a volume of three replicas with its file system mounted and a load on it. At its end the volume must be
// fully redundant again.
func tell(t *testing.T, happens func(ctx context.Context, s *story) error) {
	t.Helper()
	v := shared(t)
	r := result{name: t.Name()}
	ctx := t.Context()
	tr, err := start(ctx, v.Stack, 3, t.Logf)
	s := &story{trial: tr, vm: v}
	if err == nil {
		err = s.run(ctx, &r, happens)
	}
	if err != nil {
		r.problems = append(r.problems, err.Error())
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stack.Patience)
		defer cancel()
		if err := errors.Join(v.Heal(ctx), v.ControllerProcess.Start(), v.StartNode(ctx)); err != nil {
			t.Log(err)
		}
		tr.giveUp(ctx)
	}
	r.crashes = v.Crashes()
	enter(t, r)
}

func (s *story) run(ctx context.Context, r *result, happens func(ctx context.Context, s *story) error) error {
	if _, err := s.untilRedundant(ctx); err != nil {
		return err
	}
	if err := s.load.Run(ctx, writing.mix()); err != nil {
		return err
	}
	if err := s.watch(ctx, warmUp); err != nil {
		return err
	}
	if err := happens(ctx, s); err != nil {
		return errors.Join(err, s.endLoad(ctx, r))
	}
	var err error
	if r.redundancy, err = s.untilRedundant(ctx); err != nil {
		return errors.Join(err, s.endLoad(ctx, r))
	}
	r.redundancy = max(r.redundancy, s.worst)
	return s.end(ctx, r)
}

// whole waits for full redundancy between rounds.
func (s *story) whole(ctx context.Context) error {
	took, err := s.untilRedundant(ctx)
	s.worst = max(s.worst, took)
	return err
}

// host is the raid host.
func (s *story) host(ctx context.Context) (*stack.Target, *volume.Volume, error) {
	v, err := s.record(ctx)
	if err != nil {
		return nil, nil, err
	}
	if v.Assembly == nil {
		return nil, nil, errors.New("the volume runs nowhere")
	}
	t, err := s.stack.Target(v.Assembly.RaidHost)
	return t, v, err
}

// elsewhere returns the replicas that are not on the raid host.
func elsewhere(v *volume.Volume) []volume.Replica {
	return slices.DeleteFunc(slices.Clone(v.Replicas), func(r volume.Replica) bool { return r.Node == v.Assembly.RaidHost })
}

// goesOn waits until the load has done more.
func (s *story) goesOn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stack.Patience)
	defer cancel()
	before, err := s.load.Report(ctx)
	if err != nil {
		return err
	}
	for {
		now, err := s.load.Report(ctx)
		switch {
		case err != nil:
			return err
		case now.Errors > 0:
			return fmt.Errorf("an I/O error: %s", now.FirstError)
		case now.Writes > before.Writes+10:
			return nil
		}
		if err := wait(ctx, look); err != nil {
			return fmt.Errorf("the load stands still at %+v: %w", now, err)
		}
	}
}

// The seed of the project: with equal timeouts in both layers a volume with good replicas failed when one of them was lost.
func TestReplicaIsDeletedAndRebuiltAgainAndAgain(t *testing.T) {
	n := rounds(t, 50)
	tell(t, func(ctx context.Context, s *story) error {
		for round := range n {
			_, v, err := s.host(ctx)
			if err != nil {
				return err
			}
			others := elsewhere(v)
			lost := others[round%len(others)]
			if err := s.lose(ctx, v, lost); err != nil {
				return err
			}
			s.note("round %d: replica %s on %s is gone", round+1, lost.ID, lost.Node)
			begin := time.Now()
			_, err = s.until(ctx, "another replica in place of the one that is gone", wholeAgain, func(v *volume.Volume) bool {
				return v.Replica(lost.ID) == nil && redundant(v)
			})
			if err = errors.Join(err, s.goesOn(ctx)); err != nil {
				return fmt.Errorf("round %d: %w", round+1, err)
			}
			s.worst = max(s.worst, time.Since(begin))
			s.note("round %d: whole again", round+1)
		}
		return nil
	})
}

// lose kills a replica's target and deletes the lvol before anybody can use it again.
func (s *story) lose(ctx context.Context, v *volume.Volume, r volume.Replica) error {
	target, err := s.stack.Target(r.Node)
	if err != nil {
		return err
	}
	for _, on := range []bool{true, false} {
		if err := target.Set(ctx, stack.Killed, on); err != nil {
			return err
		}
	}
	if err := target.Call(ctx, "bdev_lvol_delete", map[string]any{"name": r.LvStore + "/" + v.LvolName(r)}, nil); err != nil {
		return fmt.Errorf("delete the lvol of replica %s on %s: %w", r.ID, r.Node, err)
	}
	return nil
}

func TestRaidHostIsKilledAgainAndAgain(t *testing.T) {
	n := rounds(t, 20)
	tell(t, func(ctx context.Context, s *story) error {
		for round := range n {
			host, before, err := s.host(ctx)
			if err != nil {
				return err
			}
			s.note("round %d: raid host %s is killed", round+1, host.Name)
			if err := host.Set(ctx, stack.Killed, true); err != nil {
				return err
			}
			if err := s.runsOnAfter(ctx, before); err != nil {
				return fmt.Errorf("round %d: %w", round+1, err)
			}
			if err := host.Set(ctx, stack.Killed, false); err != nil {
				return err
			}
			if err := s.whole(ctx); err != nil {
				return fmt.Errorf("round %d: %w", round+1, err)
			}
		}
		return nil
	})
}

// runsOnAfter waits until the volume runs as another assembly than it did and the load goes on.
func (s *story) runsOnAfter(ctx context.Context, before *volume.Volume) error {
	_, err := s.until(ctx, "another assembly", wholeAgain, func(v *volume.Volume) bool {
		return v.Assembly != nil && v.Assembly.Number != before.Assembly.Number && !v.Assembly.Held
	})
	if err != nil {
		return err
	}
	return s.goesOn(ctx)
}

// A raid host that only stood still goes on where it stopped: with writes that its replicas have not had, and with a target that
// the host once had a path to. Nothing of that may reach a replica or a reader; the load reads all the while.
func TestRaidHostThatComesBackLateReachesNobody(t *testing.T) {
	tell(t, func(ctx context.Context, s *story) error {
		host, before, err := s.host(ctx)
		if err != nil {
			return err
		}
		s.note("raid host %s stands still", host.Name)
		if err := host.Set(ctx, stack.Hung, true); err != nil {
			return err
		}
		if err := s.runsOnAfter(ctx, before); err != nil {
			return err
		}
		if err := s.watch(ctx, 2*stallBudget); err != nil {
			return err
		}
		s.note("%s goes on", host.Name)
		if err := host.Set(ctx, stack.Hung, false); err != nil {
			return err
		}
		return s.watch(ctx, stallBudget)
	})
}

// killNode kills the node service. If it waits for I/O of a volume whose failover would be its own task, nobody can start another.
func (s *story) killNode(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stallBudget)
	defer cancel()
	err := s.vm.KillNode(ctx)
	if err != nil {
		if blocked, guestErr := s.vm.Guest(context.WithoutCancel(ctx), "echo w > /proc/sysrq-trigger; dmesg | tail -n 60"); guestErr == nil {
			s.note("what waits in the guest's kernel:\n%s", blocked)
		}
	}
	return err
}

func TestNodeServiceKilledDuringARebuild(t *testing.T) {
	tell(t, func(ctx context.Context, s *story) error {
		if err := s.beginRebuild(ctx); err != nil {
			return err
		}
		s.note("the node service is killed")
		if err := s.killNode(ctx); err != nil {
			return err
		}
		if err := s.watch(ctx, 3*time.Second); err != nil {
			return err
		}
		s.note("the node service starts")
		return s.vm.StartNode(ctx)
	})
}

func TestNodeServiceKilledDuringAFailover(t *testing.T) {
	n := rounds(t, 5)
	tell(t, func(ctx context.Context, s *story) error {
		for round := range n {
			host, before, err := s.host(ctx)
			if err != nil {
				return err
			}
			s.note("round %d: raid host %s is killed", round+1, host.Name)
			if err := host.Set(ctx, stack.Killed, true); err != nil {
				return err
			}
			// Somewhere between the first sign and the end of the failover.
			if err := wait(ctx, time.Duration(round)*300*time.Millisecond); err != nil {
				return err
			}
			s.note("the node service is killed")
			if err := s.killNode(ctx); err != nil {
				return fmt.Errorf("round %d: %w", round+1, err)
			}
			if err := s.watch(ctx, 2*time.Second); err != nil {
				return err
			}
			if err := s.vm.StartNode(ctx); err != nil {
				return err
			}
			s.note("the node service starts")
			if err := s.runsOnAfter(ctx, before); err != nil {
				return fmt.Errorf("round %d: %w", round+1, err)
			}
			if err := host.Set(ctx, stack.Killed, false); err != nil {
				return err
			}
			if err := s.whole(ctx); err != nil {
				return fmt.Errorf("round %d: %w", round+1, err)
			}
		}
		return nil
	})
}

// Nothing can be put on record while the store is away. A replica that fails then is put on record when it is back.
func TestStoreAwayWhileAReplicaFails(t *testing.T) {
	tell(t, func(ctx context.Context, s *story) error {
		_, v, err := s.host(ctx)
		if err != nil {
			return err
		}
		victim, err := s.stack.Target(elsewhere(v)[0].Node)
		if err != nil {
			return err
		}
		s.note("the store goes away with the controller")
		s.vm.ControllerProcess.Kill()
		begin, away := time.Now(), storeAway()
		if err := wait(ctx, away/6); err != nil {
			return err
		}
		s.note("replica holder %s is killed", victim.Name)
		if err := victim.Set(ctx, stack.Killed, true); err != nil {
			return err
		}
		if err := wait(ctx, away/2); err != nil {
			return err
		}
		if err := errors.Join(s.goesOn(ctx), victim.Set(ctx, stack.Killed, false)); err != nil {
			return err
		}
		if err := wait(ctx, away-time.Since(begin)); err != nil {
			return err
		}
		s.note("the store is back")
		return s.vm.ControllerProcess.Start()
	})
}
