package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const (
	// reviewInterval is how often the record is read while an owner's review is waited for, reviewLimit for how long.
	reviewInterval = 200 * time.Millisecond
	reviewLimit    = 10 * time.Second
)

// admit publishes a volume to another node while an owner looks after what runs of it. To the targets that there are the node's host NQN is
// added and nothing else is done: what more there is to do is the owner's.
func (s *Server) admit(ctx context.Context, v *volume.Volume, p volume.Publication) error {
	v, err := s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if err := mayPublish(v, p); err != nil {
			return false, err
		}
		if v.Owner == "" || v.Assembly == nil || v.Assembly.Stopping {
			return false, fmt.Errorf("%w: it is being given back", volume.ErrBusy)
		}
		if v.Publication(p.Node) != nil {
			return false, nil
		}
		v.Publications, v.Review = append(v.Publications, p), true
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, a := range v.Running() {
		err := s.cluster.AllowHost(ctx, v, a.RaidHost, volume.HostNQN(p.Node))
		switch {
		case err == nil:
		case a.Number != v.Assembly.Number: // the standby; the owner sees to it
			klog.FromContext(ctx).V(2).Info("The standby doesn't know a further node yet", "volumeID", v.ID, "node", p.Node, "err", err)
		case errors.Is(err, spdk.ErrNotFound):
			return fmt.Errorf("%w: it is on its way to raid host %s: %w", volume.ErrBusy, a.RaidHost, err)
		default:
			return fmt.Errorf("%w: raid host %s: %w", volume.ErrNodeDown, a.RaidHost, err)
		}
	}
	klog.FromContext(ctx).V(2).Info("Volume published to a further node", "volumeID", v.ID, "node", p.Node, "owner", v.Owner)
	return nil
}

// shutOut keeps a node off a volume that others go on using: its host NQN is off every target, its controllers are gone, and the owner has
// looked since, so that nothing that it did by an older record lets the node in again.
func (s *Server) shutOut(ctx context.Context, v *volume.Volume, name string) error {
	for _, a := range v.Running() {
		if err := s.cluster.FenceHost(ctx, v, a.RaidHost, volume.HostNQN(name)); err != nil {
			return fmt.Errorf("%w: node %s can't be kept off raid host %s; node service %s switches to another if that one is lost: %w", volume.ErrNodeDown, name, a.RaidHost, v.Owner, err)
		}
	}
	if owner := v.Publication(v.Owner); !v.Review || owner == nil || !owner.Staged {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, reviewLimit)
	defer cancel()
	ticker := time.NewTicker(reviewInterval)
	defer ticker.Stop()
	for {
		now, err := s.get(ctx, v.ID)
		if err != nil || !now.Review || now.Owner == "" {
			return err
		}
		select {
		case <-ticker.C:
		case <-limited.Done():
			return fmt.Errorf("%w: the node service on %s, which looks after what runs of it, has not noticed yet that node %s is gone", volume.ErrBusy, now.Owner, name)
		}
	}
}
