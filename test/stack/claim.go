package stack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// retryPause is how long a CO waits before it makes a failed call again.
const retryPause = time.Second

// ClaimSpec says what volume a CO wants.
type ClaimSpec struct {
	// Name is unique; "" makes one up.
	Name string
	// FSType is ext4 or xfs; "" is raw block.
	FSType     string
	SizeBytes  int64
	Parameters map[string]string
	// Content is what it is made of; nil is nothing.
	Content *csi.VolumeContentSource
	// Secrets go with the calls of the node service that take some.
	Secrets map[string]string
	// Retry makes failed calls again, as a CO does, until the context ends. With real targets those are made again in any case whose error says
	// that it may help: the targets poll cores that the virtual machine has to do with, too.
	Retry bool
	// Mode is the access mode; default is a single node's writer.
	Mode csi.VolumeCapability_AccessMode_Mode
}

// Claim is a volume as a CO uses it on one node. It notes how long each call took.
type Claim struct {
	// ID is the volume's.
	ID string
	// Pod is where it is published: a directory, or the file of a raw block volume.
	Pod string
	// Secrets are the spec's; they may be changed between calls.
	Secrets map[string]string
	// Once: calls are made once, whatever they answer.
	Once bool

	stack      *Stack
	spec       ClaimSpec
	capability *csi.VolumeCapability
	node       string
	service    csi.NodeClient
	staging    string

	mu   sync.Mutex
	took []string
}

// Claim creates a volume.
func (s *Stack) Claim(ctx context.Context, spec ClaimSpec) (*Claim, error) {
	if spec.Name == "" {
		spec.Name = unique("claim")
	}
	c := &Claim{Secrets: spec.Secrets, stack: s, spec: spec, node: NodeName, service: s.Node, capability: &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: cmp.Or(spec.Mode, csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)},
	}}
	if spec.FSType == "" {
		c.capability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		c.capability.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: spec.FSType}}
	}
	err := c.Do(ctx, "CreateVolume", func(ctx context.Context) error {
		resp, err := s.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
			Name: spec.Name, VolumeCapabilities: []*csi.VolumeCapability{c.capability},
			CapacityRange: &csi.CapacityRange{RequiredBytes: spec.SizeBytes}, Parameters: spec.Parameters,
			VolumeContentSource: spec.Content,
		})
		c.ID = resp.GetVolume().GetVolumeId()
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, c.at(ctx, s.Host)
}

// at makes what the CO makes on a host before it uses the volume there.
func (c *Claim) at(ctx context.Context, h Host) error {
	c.staging, c.Pod = h.Path("staging-"+c.ID), h.Path("pod-"+c.ID)
	return h.MakeDir(ctx, c.staging)
}

// On is the same volume as the CO uses it on another node.
func (c *Claim) On(ctx context.Context, w *Worker) (*Claim, error) {
	other := &Claim{ID: c.ID, Secrets: c.Secrets, stack: c.stack, spec: c.spec, capability: c.capability, node: w.Name, service: w.Service}
	return other, other.at(ctx, guest{w.Machine})
}

// As has the volume be used in another access mode from now on.
func (c *Claim) As(mode csi.VolumeCapability_AccessMode_Mode) {
	c.capability = &csi.VolumeCapability{AccessType: c.capability.GetAccessType(), AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode}}
}

// Staging is where the volume is staged.
func (c *Claim) Staging() string { return c.staging }

// Capability is what the volume is used as.
func (c *Claim) Capability() *csi.VolumeCapability { return c.capability }

// Do makes one call and notes how long it took.
func (c *Claim) Do(ctx context.Context, call string, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	begin := time.Now()
	err := f(ctx)
	for tries := 1; err != nil && !c.Once && (c.spec.Retry || !c.stack.Simulated() && passing(err)); tries++ {
		timer := time.NewTimer(retryPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%s, %d times: %w", call, tries, errors.Join(err, ctx.Err()))
		}
		err = f(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", call, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.took = append(c.took, fmt.Sprintf("%-28s %8.3f s", call, time.Since(begin).Seconds()))
	return nil
}

// passing says whether a CO is told that the same call may succeed later.
func passing(err error) bool {
	return slices.Contains([]codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Aborted}, status.Code(err))
}

// Took says how long each call took, a line a call.
func (c *Claim) Took() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.took, "\n")
}

// Publish makes the volume usable at Pod.
func (c *Claim) Publish(ctx context.Context) error {
	err := c.Do(ctx, "ControllerPublishVolume", func(ctx context.Context) error {
		_, err := c.stack.Controller.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{VolumeId: c.ID, NodeId: c.node, VolumeCapability: c.capability})
		return err
	})
	if err != nil {
		return err
	}
	err = c.Do(ctx, "NodeStageVolume", func(ctx context.Context) error {
		_, err := c.service.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: c.ID, StagingTargetPath: c.staging, VolumeCapability: c.capability, Secrets: c.Secrets})
		return err
	})
	if err != nil {
		return err
	}
	return c.Do(ctx, "NodePublishVolume", func(ctx context.Context) error {
		_, err := c.service.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{VolumeId: c.ID, StagingTargetPath: c.staging, TargetPath: c.Pod, VolumeCapability: c.capability})
		return err
	})
}

// Unpublish ends the use of the volume.
func (c *Claim) Unpublish(ctx context.Context) error {
	err := c.Do(ctx, "NodeUnpublishVolume", func(ctx context.Context) error {
		_, err := c.service.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: c.ID, TargetPath: c.Pod})
		return err
	})
	if err != nil {
		return err
	}
	err = c.Do(ctx, "NodeUnstageVolume", func(ctx context.Context) error {
		_, err := c.service.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: c.ID, StagingTargetPath: c.staging})
		return err
	})
	if err != nil {
		return err
	}
	return c.Do(ctx, "ControllerUnpublishVolume", func(ctx context.Context) error {
		_, err := c.stack.Controller.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: c.ID, NodeId: c.node})
		return err
	})
}

// Expand has the volume grow. Online is whether it is in use, so that the node is asked, too.
func (c *Claim) Expand(ctx context.Context, bytes int64, online bool) error {
	size := &csi.CapacityRange{RequiredBytes: bytes}
	err := c.Do(ctx, "ControllerExpandVolume", func(ctx context.Context) error {
		_, err := c.stack.Controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: c.ID, CapacityRange: size, VolumeCapability: c.capability})
		return err
	})
	if err != nil || !online {
		return err
	}
	return c.Do(ctx, "NodeExpandVolume", func(ctx context.Context) error {
		_, err := c.service.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{VolumeId: c.ID, VolumePath: c.Pod, StagingTargetPath: c.staging, CapacityRange: size, VolumeCapability: c.capability, Secrets: c.Secrets})
		return err
	})
}

// Delete deletes the volume.
func (c *Claim) Delete(ctx context.Context) error {
	return c.Do(ctx, "DeleteVolume", func(ctx context.Context) error {
		_, err := c.stack.Controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: c.ID})
		return err
	})
}

// Record reads the volume's record.
func (c *Claim) Record(ctx context.Context) (*volume.Volume, error) {
	return c.stack.Store.Get(ctx, c.ID)
}
