package demo

import (
	"context"
	"errors"
	"fmt"
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
	// broken is closed when a writer has given up.
	broken <-chan struct{}
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
	if err := s.outlive(ctx); err != nil {
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
	err := s.story.during("Writing a pattern to all of the volume", s.fraction, func() error { return s.load.fill(ctx) })
	s.report.addLoad(s.load)
	return err
}

func (s *scene) fraction() string { return bar(s.load.fraction()) }

// verify reads everything back.
func (s *scene) verify(ctx context.Context) error {
	err := s.story.during("Reading everything back from the two replicas that are left, one of them rebuilt", s.fraction, func() error { return s.load.verify(ctx) })
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
	s.story.step("DeleteVolume answers %s while %s is dead: its replica is not forgotten", status.Code(err), s.report.RaidHost)
	if err := s.lab.sims[s.report.RaidHost].Restart(); err != nil {
		return fmt.Errorf("start %s again: %w", s.report.RaidHost, err)
	}
	s.story.step("Starting %s again", s.report.RaidHost)
	return s.call("DeleteVolume", "all three replicas are gone", func() error {
		_, err := controllerService.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: s.id})
		return err
	})
}
