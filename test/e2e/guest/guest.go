// Package guest lets a test on the machine use node/nvmeof and node/mount inside
// the test virtual machine. hostd, which runs there, holds one nvmeof.Host and
// one mount.Mounter as the driver's node service does; the test calls them one
// operation at a time over a Unix socket, with errors that errors.Is knows.
package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/node/nvmeof"
)

// Socket is where hostd listens.
const Socket = "/run/hostd.sock"

// Args are the arguments of any operation; each takes what it needs.
type Args struct {
	Target nvmeof.Target
	// HostKey and ControllerKey are the target's: it doesn't show them in JSON.
	HostKey, ControllerKey string

	NQN      string
	NSUUID   uuid.UUID
	Address  string
	Bytes    int64
	Device   string
	Path     string
	Source   string
	FSType   string
	Flags    []string
	ReadOnly bool
	Format   mount.FormatOptions
}

// Call is one operation, as it is sent.
type Call struct {
	Op    string
	Limit time.Duration // of the operation's context
	Args  []byte        // JSON of Args
}

// Answer is what comes back.
type Answer struct {
	Value []byte // JSON
	Error string
	Is    []string // names of the sentinels that the error wraps
}

// sentinels are the errors that keep their identity on the way.
var sentinels = map[string]error{
	"nvmeof.ErrNotConnected":  nvmeof.ErrNotConnected,
	"nvmeof.ErrModuleMissing": nvmeof.ErrModuleMissing,
	"nvmeof.ErrUnreachable":   nvmeof.ErrUnreachable,
	"nvmeof.ErrRejected":      nvmeof.ErrRejected,
	"nvmeof.ErrUnsupported":   nvmeof.ErrUnsupported,
	"nvmeof.ErrForeign":       nvmeof.ErrForeign,
	"nvmeof.ErrInvalid":       nvmeof.ErrInvalid,
	"mount.ErrNotBlank":       mount.ErrNotBlank,
	"mount.ErrOtherMount":     mount.ErrOtherMount,
	"mount.ErrNotMounted":     mount.ErrNotMounted,
	"mount.ErrStillMounted":   mount.ErrStillMounted,
	"mount.ErrInvalid":        mount.ErrInvalid,
	"mount.ErrCorrupt":        mount.ErrCorrupt,
	"deadline exceeded":       context.DeadlineExceeded,
}

// remoteError is an error of the guest.
type remoteError struct {
	text string
	is   []string
}

func (e *remoteError) Error() string { return e.text }

func (e *remoteError) Is(target error) bool {
	for _, name := range e.is {
		if sentinels[name] == target {
			return true
		}
	}
	return false
}

// answer packs an operation's outcome.
func answer(value any, err error) (Answer, error) {
	var a Answer
	if err != nil {
		a.Error = err.Error()
		for name, sentinel := range sentinels {
			if errors.Is(err, sentinel) {
				a.Is = append(a.Is, name)
			}
		}
	}
	b, err := json.Marshal(value)
	a.Value = b
	return a, err
}

// Dialer opens connections inside the guest; vm.VM is one.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Client calls hostd.
type Client struct{ rpc *rpc.Client }

// Dial connects to hostd.
func Dial(ctx context.Context, d Dialer) (*Client, error) {
	conn, err := d.DialContext(ctx, "unix", Socket)
	if err != nil {
		return nil, err
	}
	return &Client{rpc.NewClient(conn)}, nil
}

// Close ends the connection; hostd lives on.
func (c *Client) Close() error { return c.rpc.Close() }

// Do runs an operation in the guest with a context of that limit, and decodes
// its value into value unless that is nil.
func (c *Client) Do(limit time.Duration, op string, args Args, value any) error {
	b, err := json.Marshal(args)
	if err != nil {
		return err
	}
	var a Answer
	if err := c.rpc.Call("Service.Do", Call{op, limit, b}, &a); err != nil {
		return fmt.Errorf("call %s in the guest: %w", op, err)
	}
	if value != nil && a.Value != nil {
		if err := json.Unmarshal(a.Value, value); err != nil {
			return fmt.Errorf("decode the value of %s: %w", op, err)
		}
	}
	if a.Error != "" {
		return &remoteError{a.Error, a.Is}
	}
	return nil
}
