package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// budgets are what the demo's volume promises: a write waits for a failed replica for 10 s at the most.
var budgets = timeouts.Budgets{ReplicaStall: 10 * time.Second, TargetLoss: timeouts.DefaultBudgets().TargetLoss}

// scene is the course of the demo.
type scene struct {
	lab    *lab
	o      Options
	story  *narrator
	report *Report

	id   string
	file *userspace.File
	load *load
}

func (s *scene) staging() string { return s.lab.path("staging") }
func (s *scene) target() string  { return s.lab.path("pod") }

func (s *scene) run(ctx context.Context) error {
	if err := s.attach(ctx); err != nil {
		return err
	}
	if err := s.write(ctx); err != nil {
		return err
	}
	if err := s.overwrite(ctx); err != nil {
		return err
	}
	if err := s.verify(ctx); err != nil {
		return err
	}
	return s.detach(ctx)
}

// call makes one CSI call and notes how long it took.
func (s *scene) call(name, what string, f func() error) error {
	begin := time.Now()
	err := f()
	took := time.Since(begin)
	s.report.Calls = append(s.report.Calls, Call{Name: name, Seconds: took.Seconds()})
	if err != nil {
		return fmt.Errorf("%s: %s", name, status.Convert(err).Message())
	}
	s.story.step("%s: %s (%s)", name, what, short(took))
	return nil
}

func capability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

// attach takes the volume from nothing to a target that can be written to.
func (s *scene) attach(ctx context.Context) error {
	controllerService, nodeService := csi.NewControllerClient(s.lab.controller), csi.NewNodeClient(s.lab.node)
	err := s.call("CreateVolume", fmt.Sprintf("%d MiB on three nodes", s.o.SizeMiB), func() error {
		resp, err := controllerService.CreateVolume(ctx, &csi.CreateVolumeRequest{
			Name: "demo", CapacityRange: &csi.CapacityRange{RequiredBytes: int64(s.o.SizeMiB) << 20}, VolumeCapabilities: []*csi.VolumeCapability{capability()},
			Parameters: map[string]string{volume.ParamReplicas: "3", volume.ParamReplicaStallBudget: budgets.ReplicaStall.String()},
		})
		s.id = resp.GetVolume().GetVolumeId()
		return err
	})
	if err != nil {
		return err
	}
	err = s.call("ControllerPublishVolume", "the raid is assembled and exported to "+host+" alone", func() error {
		_, err := controllerService.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{VolumeId: s.id, NodeId: host, VolumeCapability: capability()})
		return err
	})
	if err != nil {
		return err
	}
	err = s.call("NodeStageVolume", "attached over NVMe/TCP, found blank, formatted, mounted", func() error {
		_, err := nodeService.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: s.id, StagingTargetPath: s.staging(), VolumeCapability: capability()})
		return err
	})
	if err != nil {
		return err
	}
	err = s.call("NodePublishVolume", "bound to the pod's directory", func() error {
		_, err := nodeService.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
			VolumeId: s.id, StagingTargetPath: s.staging(), TargetPath: s.target(), VolumeCapability: capability(),
		})
		return err
	})
	if err == nil {
		s.file, err = s.lab.machine.Open(s.target())
	}
	return err
}

// write fills the volume.
func (s *scene) write(ctx context.Context) error {
	s.load = newLoad(s.file)
	err := s.story.during("Writing a pattern to all of the volume", s.load.fraction, func() error { return s.load.fill(ctx) })
	s.report.addLoad(s.load)
	return err
}

// overwrite goes on writing while a replica's node is killed.
func (s *scene) overwrite(ctx context.Context) error {
	v, err := s.lab.store.Get(ctx, s.id)
	if err != nil {
		return err
	}
	s.report.RaidHost, s.report.KilledNode = v.Assembly.RaidHost, victim(v)
	total := time.Duration(s.o.Seconds) * time.Second
	begin := time.Now()
	s.story.step("The raid runs on %s, over the replicas on %s", v.Assembly.RaidHost, strings.Join(nodesOf(v), ", "))
	kill := time.AfterFunc(total/4, func() {
		s.story.step("After %s: killing the SPDK process of %s, which holds a replica", short(time.Since(begin)), s.report.KilledNode)
		s.lab.sims[s.report.KilledNode].Kill()
	})
	defer kill.Stop()
	elapsed := func() float64 { return time.Since(begin).Seconds() / total.Seconds() }
	err = s.story.during(fmt.Sprintf("Overwriting it for %s with %d writers", short(total), writers), elapsed, func() error { return s.load.overwrite(ctx, total) })
	s.report.addLoad(s.load)
	if err != nil {
		return err
	}
	return s.lookAtRecord(ctx)
}

// lookAtRecord sees that the driver knows which replica has missed writes.
func (s *scene) lookAtRecord(ctx context.Context) error {
	v, err := s.lab.store.Get(ctx, s.id)
	if err != nil {
		return err
	}
	for _, r := range v.Replicas {
		if r.Node == s.report.KilledNode {
			s.report.LostReplica = string(r.State)
		}
	}
	if s.report.LostReplica != string(volume.ReplicaOutOfSync) {
		return fmt.Errorf("the record calls the replica on %s %s although writes have gone on without it", s.report.KilledNode, s.report.LostReplica)
	}
	s.story.step("The record calls the replica on %s %s: it is no source of data before it is rebuilt", s.report.KilledNode, s.report.LostReplica)
	return nil
}

// victim is a node that holds a replica and does not run the raid.
func victim(v *volume.Volume) string {
	nodes := nodesOf(v)
	return nodes[slices.IndexFunc(nodes, func(n string) bool { return n != v.Assembly.RaidHost })]
}

func nodesOf(v *volume.Volume) []string {
	var nodes []string
	for _, r := range v.Replicas {
		nodes = append(nodes, r.Node)
	}
	slices.Sort(nodes)
	return nodes
}

// verify reads everything back.
func (s *scene) verify(ctx context.Context) error {
	err := s.story.during("Reading everything back from the replicas that are left", s.load.fraction, func() error { return s.load.verify(ctx) })
	s.report.addLoad(s.load)
	if err != nil {
		return err
	}
	s.report.Verified = true
	return nil
}

// detach takes the volume down and deletes it. The dead node is needed for that: a replica is never forgotten.
func (s *scene) detach(ctx context.Context) error {
	controllerService, nodeService := csi.NewControllerClient(s.lab.controller), csi.NewNodeClient(s.lab.node)
	err := s.call("NodeUnpublishVolume", "the pod's directory is gone", func() error {
		_, err := nodeService.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: s.id, TargetPath: s.target()})
		return err
	})
	if err != nil {
		return err
	}
	err = s.call("NodeUnstageVolume", "unmounted and disconnected", func() error {
		_, err := nodeService.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: s.id, StagingTargetPath: s.staging()})
		return err
	})
	if err != nil {
		return err
	}
	err = s.call("ControllerUnpublishVolume", "target, raid and legs are gone", func() error {
		_, err := controllerService.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: s.id, NodeId: host})
		return err
	})
	if err != nil {
		return err
	}
	_, err = controllerService.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: s.id})
	if status.Code(err) != codes.Unavailable {
		return errors.Join(errors.New("DeleteVolume did not answer Unavailable although a replica's node is dead"), err)
	}
	s.story.step("DeleteVolume answers %s while %s is dead: its replica is not forgotten", status.Code(err), s.report.KilledNode)
	if err := s.lab.sims[s.report.KilledNode].Restart(); err != nil {
		return fmt.Errorf("start %s again: %w", s.report.KilledNode, err)
	}
	s.story.step("Starting %s again", s.report.KilledNode)
	return s.call("DeleteVolume", "all three replicas are gone", func() error {
		_, err := controllerService.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: s.id})
		return err
	})
}
