package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/rpc"

	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/node/nvmeof"
)

// Service is what hostd serves.
type Service struct {
	host  *nvmeof.Host
	mount *mount.Mounter
}

// Serve serves on l until that is closed.
func Serve(l net.Listener) error {
	server := rpc.NewServer()
	s := &Service{host: nvmeof.New(nvmeof.Options{}), mount: mount.New(mount.Options{})}
	if err := server.Register(s); err != nil {
		return err
	}
	server.Accept(l)
	return nil
}

// Do runs one operation.
func (s *Service) Do(call Call, result *Answer) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), call.Limit)
	defer cancel()
	var args Args
	if err := json.Unmarshal(call.Args, &args); err != nil {
		return err
	}
	args.Target.HostKey, args.Target.ControllerKey = nvmeof.NewSecret(args.HostKey), nvmeof.NewSecret(args.ControllerKey)
	op, ok := operations[call.Op]
	if !ok {
		return fmt.Errorf("no operation %q", call.Op)
	}
	*result, err = answer(op(s, ctx, args))
	return err
}

type operation func(*Service, context.Context, Args) (any, error)

// silent is an operation without a value.
func silent(f func(*Service, context.Context, Args) error) operation {
	return func(s *Service, ctx context.Context, a Args) (any, error) { return nil, f(s, ctx, a) }
}

var operations = map[string]operation{
	"Connect": func(s *Service, ctx context.Context, a Args) (any, error) { return s.host.Connect(ctx, a.Target) },
	"ConnectPath": func(s *Service, ctx context.Context, a Args) (any, error) {
		return s.host.ConnectPath(ctx, a.Target, a.Address)
	},
	"Device": func(s *Service, ctx context.Context, a Args) (any, error) { return s.host.Device(ctx, a.NQN, a.NSUUID) },
	"WaitSize": func(s *Service, ctx context.Context, a Args) (any, error) {
		return s.host.WaitSize(ctx, a.NQN, a.NSUUID, a.Bytes)
	},
	"Paths":       func(s *Service, ctx context.Context, a Args) (any, error) { return s.host.Paths(ctx, a.NQN) },
	"Controllers": func(s *Service, _ context.Context, a Args) (any, error) { return s.host.Controllers(a.NQN) },
	"Disconnect":  silent(func(s *Service, ctx context.Context, a Args) error { return s.host.Disconnect(ctx, a.NQN) }),
	"DisconnectPath": silent(func(s *Service, ctx context.Context, a Args) error {
		return s.host.DisconnectPath(ctx, a.NQN, a.Address)
	}),

	"Probe":  func(s *Service, ctx context.Context, a Args) (any, error) { return s.mount.Probe(ctx, a.Device) },
	"InUse":  func(s *Service, ctx context.Context, a Args) (any, error) { return s.mount.InUse(ctx, a.Device) },
	"Stats":  func(s *Service, ctx context.Context, a Args) (any, error) { return s.mount.Stats(ctx, a.Path) },
	"Mounts": func(s *Service, _ context.Context, a Args) (any, error) { return s.mount.Mounts(a.Path) },
	"ReadOnly": func(s *Service, _ context.Context, a Args) (any, error) {
		return s.mount.ReadOnly(a.Path)
	},
	"Format": silent(func(s *Service, ctx context.Context, a Args) error { return s.mount.Format(ctx, a.Device, a.Format) }),
	"Mount": silent(func(s *Service, ctx context.Context, a Args) error {
		return s.mount.Mount(ctx, a.Device, a.Path, a.FSType, a.Flags, a.ReadOnly)
	}),
	"BindMount": silent(func(s *Service, ctx context.Context, a Args) error {
		return s.mount.BindMount(ctx, a.Source, a.Path, a.ReadOnly)
	}),
	"BindDevice": silent(func(s *Service, ctx context.Context, a Args) error { return s.mount.BindDevice(ctx, a.Device, a.Path) }),
	"Unmount":    silent(func(s *Service, ctx context.Context, a Args) error { return s.mount.Unmount(ctx, a.Path) }),
	"Remove":     silent(func(s *Service, _ context.Context, a Args) error { return s.mount.Remove(a.Path) }),
	"Resize":     silent(func(s *Service, ctx context.Context, a Args) error { return s.mount.Resize(ctx, a.Device, a.Path) }),
	"Responds":   silent(func(s *Service, ctx context.Context, a Args) error { return s.mount.Responds(ctx, a.Path) }),
}
