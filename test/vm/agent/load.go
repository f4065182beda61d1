package agent

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/holdfast-csi/holdfast/test/vm/load"
)

// LoadSpec is a load to run in the guest; its calls follow as messages. It ends with the call.
type LoadSpec struct {
	// Path is a file, which is made if need be, or a block device. It is opened past the page cache.
	Path string
	// First is the number of the first block of the file that is the load's, Blocks how many are.
	First, Blocks int
}

// Operations of a load, as they are sent.
const (
	loadFill   = "fill"
	loadRun    = "run"
	loadPause  = "pause"
	loadReport = "report"
	loadVerify = "verify"
)

type loadCall struct {
	Op  string
	Mix load.Mix
}

// serveLoad is the guest's side.
func serveLoad(conn net.Conn, spec *LoadSpec) error {
	file, err := load.OpenDirect(spec.Path)
	if err != nil {
		return err
	}
	l := load.New(file, spec.First, spec.Blocks)
	// I/O that hangs keeps the load: its goroutine waits for it, not the agent.
	defer func() {
		l.Close()
		_ = file.Close()
	}()
	if err := writeJSON(conn, Reply{}); err != nil {
		return err
	}
	for {
		var call loadCall
		if err := readJSON(conn, &call); err != nil {
			return nil // the other side hung up
		}
		switch call.Op {
		case loadFill:
			l.Fill()
		case loadRun:
			l.Run(call.Mix)
		case loadPause:
			l.Pause()
		case loadVerify:
			l.Verify()
		}
		if err := writeJSON(conn, l.Report()); err != nil {
			return nil
		}
	}
}

// Load is a load in the guest, as the machine sees it. Its methods may be called by many goroutines, one after the other takes its
// turn; after one whose context ended the load is lost.
type Load struct {
	turn sync.Mutex
	conn net.Conn
}

// OpenLoad opens a load in the guest.
func (h *Host) OpenLoad(ctx context.Context, spec LoadSpec) (*Load, error) {
	conn, release, err := h.call(ctx, Request{Load: &spec})
	if err != nil {
		return nil, err
	}
	defer release()
	var reply Reply
	if err = readJSON(conn, &reply); err == nil {
		err = reply.err()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("open a load on %s: %w", spec.Path, err)
	}
	return &Load{conn: conn}, nil
}

// Fill writes every block once.
func (l *Load) Fill(ctx context.Context) (load.Report, error) {
	return l.do(ctx, loadCall{Op: loadFill})
}

// Run starts workers; it does not wait for them.
func (l *Load) Run(ctx context.Context, m load.Mix) error {
	_, err := l.do(ctx, loadCall{Op: loadRun, Mix: m})
	return err
}

// Pause ends the workers when the I/O that they are at has ended.
func (l *Load) Pause(ctx context.Context) (load.Report, error) {
	return l.do(ctx, loadCall{Op: loadPause})
}

// Report returns what was seen so far.
func (l *Load) Report(ctx context.Context) (load.Report, error) {
	return l.do(ctx, loadCall{Op: loadReport})
}

// Verify reads every block and compares it with the journal.
func (l *Load) Verify(ctx context.Context) (load.Report, error) {
	return l.do(ctx, loadCall{Op: loadVerify})
}

// Close ends the load. I/O of it that hangs in the guest's kernel goes on hanging there.
func (l *Load) Close() error { return l.conn.Close() }

func (l *Load) do(ctx context.Context, call loadCall) (load.Report, error) {
	l.turn.Lock()
	defer l.turn.Unlock()
	stop := context.AfterFunc(ctx, func() { l.conn.Close() })
	defer stop()
	var r load.Report
	err := writeJSON(l.conn, call)
	if err == nil {
		err = readJSON(l.conn, &r)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return load.Report{}, fmt.Errorf("%s of the load in the guest: %w", call.Op, err)
	}
	return r, nil
}
