// Package node is the CSI node service: it attaches volumes to this machine, puts file systems on them and mounts them. One flow
// a file.
//
// A flow reads the volume's record to know what to attach, and takes ownership before the first byte can flow. What it has
// attached it also notes in a file of its own (package-private type staged), so that a volume can be detached without the record.
package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Devices are the attached namespaces as block devices.
type Devices interface {
	Device(ctx context.Context, nqn string, nsUUID uuid.UUID) (nvmeof.Device, error)
	SetReadOnly(ctx context.Context, nqn string, nsUUID uuid.UUID, readOnly bool) error
	WaitSize(ctx context.Context, nqn string, nsUUID uuid.UUID, bytes int64) (nvmeof.Device, error)
}

// Fabrics attaches namespaces to this machine. *nvmeof.Host is the kernel's.
type Fabrics interface {
	Devices
	Connect(ctx context.Context, t nvmeof.Target) (devicePath string, err error)
	Disconnect(ctx context.Context, nqn string) error
	Paths(ctx context.Context, nqn string) ([]nvmeof.PathState, error)
	Controllers(prefix string) ([]nvmeof.Controller, error)
	ConnectPath(ctx context.Context, t nvmeof.Target, address string) (nvmeof.PathState, error)
	DisconnectPath(ctx context.Context, nqn, address string) error
	Greet(ctx context.Context, address string) error
}

// FileSystems probes, makes, grows and measures file systems. *mount.Mounter is the real one.
type FileSystems interface {
	Probe(ctx context.Context, device string) (mount.Content, error)
	Format(ctx context.Context, device string, o mount.FormatOptions) error
	Resize(ctx context.Context, device, mountPoint string) error
	Stats(ctx context.Context, path string) (mount.Usage, error)
	InUse(ctx context.Context, device string) (bool, error)
	Trim(ctx context.Context, path string) (int64, error)
}

// Mounts mounts and unmounts. *mount.Mounter is the real one.
type Mounts interface {
	Mount(ctx context.Context, device, target, fsType string, flags []string, readOnly bool) error
	BindMount(ctx context.Context, source, target string, readOnly bool) error
	BindDevice(ctx context.Context, device, target string) error
	Unmount(ctx context.Context, target string) error
	Remove(target string) error
	Mounts(path string) ([]mount.Mounted, error)
	ReadOnly(path string) (bool, error)
}

// Options are what a Server is made of.
type Options struct {
	// Name is the CSI node ID.
	Name    string
	Store   volume.Store
	Cluster *converge.Cluster
	Fabrics Fabrics
	FileSystems
	Encryption
	Mounts
	// StateDir is where the node keeps what it has attached; it must survive the process, not the machine.
	StateDir string
	// Clock drives the watching of staged volumes.
	Clock clock.WithTicker
	// Zone is the failure domain of this machine, as the configuration calls it; "" is none.
	Zone string
	// MaxVolumes is how many volumes the CO may publish here; 0 leaves it to the CO.
	MaxVolumes int64
	// Observer is told of what happens to staged volumes; nil is nobody.
	Observer Observer
}

// Server implements csi.NodeServer. Its errors are the domain's; the driver's table gives them gRPC codes.
type Server struct {
	csi.UnimplementedNodeServer

	name, zone string
	store      volume.Store
	cluster    *converge.Cluster
	fabrics    Fabrics
	fs         FileSystems
	encryption Encryption
	mounts     Mounts
	state      stateDir
	maxVolumes int64
	locks      volume.Locks
	watcher    *watcher
}

// New returns a Server.
func New(o Options) (*Server, error) {
	if err := volume.CheckNodeName(o.Name); err != nil {
		return nil, err
	}
	if o.Zone != "" && !volume.ValidSegment(o.Zone) {
		return nil, fmt.Errorf("zone %q can't be announced: use 1 to 63 letters, digits, dashes, underscores and dots, with a letter or a digit at both ends", o.Zone)
	}
	if o.Encryption == nil {
		return nil, errors.New("a node service needs an Encryption: without one it couldn't tell what is open")
	}
	state, err := openStateDir(o.StateDir)
	if err != nil {
		return nil, err
	}
	s := &Server{
		name: o.Name, zone: o.Zone, store: o.Store, cluster: o.Cluster, fabrics: o.Fabrics, fs: o.FileSystems, encryption: o.Encryption, mounts: o.Mounts,
		state: state, maxVolumes: o.MaxVolumes,
	}
	s.watcher = newWatcher(s, o.Clock)
	if o.Observer != nil {
		s.watcher.observer = o.Observer
	}
	return s, nil
}

// NodeGetInfo implements csi.NodeServer. Every node announces a segment of its own, and its zone if it has one.
func (s *Server) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	segments := map[string]string{volume.TopologyNode: volume.NodeSegment(s.name)}
	if s.zone != "" {
		segments[volume.TopologyZone] = s.zone
	}
	return &csi.NodeGetInfoResponse{NodeId: s.name, MaxVolumesPerNode: s.maxVolumes, AccessibleTopology: &csi.Topology{Segments: segments}}, nil
}

// NodeGetCapabilities implements csi.NodeServer.
func (s *Server) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, c := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.NodeServiceCapability_RPC_GET_STORAGE_HEALTH,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: c}},
		})
	}
	return resp, nil
}

// get reads a record. An ID of another form than ours has none.
func (s *Server) get(ctx context.Context, id string) (*volume.Volume, error) {
	if !volume.ValidID(id) {
		return nil, fmt.Errorf("%w: %q", volume.ErrNotFound, id)
	}
	return s.store.Get(ctx, id)
}

// target says how this machine attaches a volume that runs.
func (s *Server) target(v *volume.Volume) (nvmeof.Target, error) {
	if v.Assembly == nil || !v.Assembly.Running || v.Assembly.Held {
		return nvmeof.Target{}, fmt.Errorf("%w: it is being published", volume.ErrBusy)
	}
	return s.targetAt(v, v.Assembly.RaidHost)
}

// targetAt says how this machine attaches a volume at one of its raid hosts.
func (s *Server) targetAt(v *volume.Volume, raidHost string) (nvmeof.Target, error) {
	host, err := s.cluster.Node(raidHost)
	if err != nil {
		return nvmeof.Target{}, err
	}
	values, err := timeouts.Derive(v.Parameters.Budgets)
	if err != nil {
		return nvmeof.Target{}, err
	}
	hostNQN := volume.HostNQN(s.name)
	keys, err := s.cluster.HostKeys(v, hostNQN)
	if err != nil {
		return nvmeof.Target{}, err
	}
	return nvmeof.Target{
		NQN: v.NQN(), NSUUID: v.UUID, Paths: []nvmeof.Path{{Address: host.NVMf.String()}},
		HostNQN: hostNQN, HostID: volume.HostID(hostNQN), HostKey: nvmeof.NewSecret(keys.Host.Text()), ControllerKey: nvmeof.NewSecret(keys.Controller.Text()),
		KeepAliveSec: int(values.Host.KeepAlive.Seconds()), ReconnectDelaySec: int(values.Host.ReconnectDelay.Seconds()),
		CtrlLossSec: int(values.Host.CtrlLoss.Seconds()), IOQueues: timeouts.HostQueues,
	}, nil
}

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// access is what a request wants of a volume.
type access struct {
	block    bool
	fsType   string
	flags    []string
	readOnly bool
	single   bool
	// shared: other nodes may have it mounted, too.
	shared bool
}

// mountFlags are what to mount with. A journal that other nodes may be reading past must not be replayed: ext4 noload, xfs norecovery
// (Documentation/admin-guide/ext4.rst, xfs.rst).
func (a access) mountFlags() []string {
	if !a.shared {
		return a.flags
	}
	if a.fsType == mount.XFS {
		return append(slices.Clone(a.flags), "norecovery")
	}
	return append(slices.Clone(a.flags), "noload")
}

func readAccess(c *csi.VolumeCapability) (access, error) {
	mode := c.GetAccessMode().GetMode()
	a := access{
		readOnly: mode == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY || mode == csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY,
		shared:   mode == csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY,
		single:   mode == csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
	}
	switch {
	case c == nil:
		return access{}, invalid("volume_capability is missing")
	case mode == csi.VolumeCapability_AccessMode_UNKNOWN:
		return access{}, invalid("volume_capability has no access mode")
	case c.GetBlock() != nil:
		a.block = true
	case mode == csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER || mode == csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:
		return access{}, invalid("access mode %s is for raw block volumes: no file system that is offered can be written while other nodes have it mounted", mode)
	case c.GetMount() != nil:
		a.fsType, a.flags = c.GetMount().GetFsType(), c.GetMount().GetMountFlags()
		if a.fsType != "" && !volume.ValidFSType(a.fsType) {
			return access{}, invalid("file system %q is not supported; use ext4 or xfs", a.fsType)
		}
		if err := mount.ValidateFlags(a.flags); err != nil {
			return access{}, invalid("%v", err)
		}
	default:
		return access{}, invalid("volume_capability has no access type; set mount or block")
	}
	return a, nil
}

func notFound(err error) bool { return errors.Is(err, volume.ErrNotFound) }
