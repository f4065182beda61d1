package nvmetcp

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
)

var errClosed = errors.New("the controller was closed by its user")

// Controller is an association of a host with a subsystem, made by Connect. Its
// methods may be called from many goroutines. When the association ends, for
// whatever reason, Done is closed and every command outstanding fails with a
// *StatusError for which PathError is true.
type Controller struct {
	cfg    HostConfig
	log    logr.Logger
	admin  *queue
	io     []*queue
	next   atomic.Uint32
	events chan Event

	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	done   chan struct{} // closed when the association has ended

	shutting atomic.Bool // the I/O queues are closed on purpose

	cntlid    uint16
	kato      time.Duration
	maxIO     int   // largest transfer, bytes
	inline    int   // largest in-capsule data of an I/O queue, bytes
	depth     int   // entries of an I/O queue
	maxZeroes int64 // blocks of one Write Zeroes
	maxDSM    int64 // blocks of one range of Dataset Management
	hasANA    bool
	canDSM    bool // Dataset Management is announced
	anaGroups int
	oaes      uint32

	mu          sync.Mutex
	auth        *HostAuth                // nil is none
	transaction uint16                   // of authentications
	namespaces  map[uint32]NamespaceInfo // what Identify said, by id
}

func (c HostConfig) withDefaults() HostConfig {
	if c.IOQueues == 0 {
		c.IOQueues = 1
	}
	if c.QueueDepth == 0 {
		c.QueueDepth = 128
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 10 * time.Second
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	if c.Logger.GetSink() == nil {
		c.Logger = logr.Discard()
	}
	return c
}

const (
	hostAdminDepth = 32
	// hostMaxData bounds the data of one PDU from a target, which no command of
	// this host exceeds.
	hostMaxData = 4 << 20
	hostMaxIO   = 1 << 20
)

// Connect makes an association: admin queue, controller enabled, I/O queues,
// asynchronous events. A refusal is a *StatusError, of SCT 1 for the reasons of
// Fabrics Connect (invalid host is SC 84h).
func Connect(ctx context.Context, cfg HostConfig) (*Controller, error) {
	cfg = cfg.withDefaults()
	actx, cancel := context.WithCancelCause(context.Background())
	c := &Controller{
		cfg: cfg, log: cfg.Logger, events: make(chan Event, 8), ctx: actx, cancel: cancel, done: make(chan struct{}),
		namespaces: map[uint32]NamespaceInfo{}, auth: cfg.Auth,
	}
	if err := c.connect(ctx); err != nil {
		c.drop(err)
		return nil, err
	}
	c.wg.Go(c.watchEvents)
	switch {
	case cfg.KeepAlive == KeepAliveAuto && c.kato > 0:
		c.wg.Go(func() { c.sendKeepAlives(c.kato) })
	case cfg.KeepAlive == KeepAliveAsked && cfg.KATO > 0:
		c.wg.Go(func() { c.sendKeepAlives(cfg.KATO) })
	}
	go c.end()
	return c, nil
}

// end closes the association's connections once it is over; Close waits for it.
func (c *Controller) end() {
	<-c.ctx.Done()
	c.drop(context.Cause(c.ctx))
}

func (c *Controller) drop(cause error) {
	c.cancel(cause)
	for _, q := range c.queues() {
		q.close(cause)
	}
	c.wg.Wait()
	close(c.done)
}

func (c *Controller) queues() []*queue {
	if c.admin == nil {
		return nil
	}
	return append([]*queue{c.admin}, c.io...)
}

// lostIO ends the association with one of its I/O queues, unless it is being shut
// down.
func (c *Controller) lostIO(cause error) {
	if !c.shutting.Load() {
		c.cancel(cause)
	}
}

// step bounds one command of connecting.
func (c *Controller) step(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.cfg.ConnectTimeout)
}

func (c *Controller) connect(ctx context.Context) error {
	var err error
	if c.admin, err = dialQueue(ctx, &c.cfg, 0, hostAdminDepth, c.cancel); err != nil {
		return err
	}
	c.admin.inline = 2 * pageSize
	id, err := c.fabricsConnect(ctx, c.admin, hostAdminDepth, 0xffff)
	if err != nil {
		return err
	}
	c.cntlid = id
	if err := c.enable(ctx); err != nil {
		return fmt.Errorf("enable controller %d of %s: %w", c.cntlid, c.cfg.SubNQN, err)
	}
	ictx, stop := c.step(ctx)
	defer stop()
	if err := c.identify(ictx); err != nil {
		return fmt.Errorf("identify controller %d of %s: %w", c.cntlid, c.cfg.SubNQN, err)
	}
	if c.cfg.SubNQN == DiscoveryNQN {
		return nil
	}
	return c.connectIO(ctx)
}

// fabricsConnect sends Connect on a queue, authenticates it where that is due, and returns the controller id.
func (c *Controller) fabricsConnect(ctx context.Context, q *queue, depth int, cntlid uint16) (uint16, error) {
	limited, stop := c.step(ctx)
	defer stop()
	data := make([]byte, connectDataSize)
	copy(data, c.cfg.HostID[:])
	le.PutUint16(data[offCNTLID:], cntlid)
	copy(data[offSubNQN:offSubNQN+maxNQNLen], c.cfg.SubNQN)
	copy(data[offHostNQN:offHostNQN+maxNQNLen], c.cfg.HostNQN)
	var cmd sqe
	cmd[0], cmd[4] = opFabrics, fctypeConnect
	le.PutUint16(cmd[offQID:], q.id)
	le.PutUint16(cmd[offSQSize:], uint16(depth-1))
	cmd[46] = 1 << 2 // no SQ flow control
	if q.id == 0 {
		le.PutUint32(cmd[48:], uint32(c.cfg.KATO.Milliseconds()))
	}
	inline := q.inline
	q.inline = max(inline, connectDataSize)
	result, err := q.do(limited, &cmd, data)
	q.inline = inline
	if err != nil {
		return 0, fmt.Errorf("connect queue %d of %s to %s as %s: %w", q.id, c.cfg.SubNQN, c.cfg.Addr, c.cfg.HostNQN, err)
	}
	return uint16(result), c.authenticateIfDue(ctx, q, result)
}

// enable sets CC.EN and waits until the controller is ready.
func (c *Controller) enable(ctx context.Context) error {
	limits, err := c.getProperty(ctx, propCAP, true)
	if err != nil {
		return err
	}
	c.depth = min(c.cfg.QueueDepth, int(limits&0xffff)+1)
	if err := c.setProperty(ctx, propCC, ccEnable|ccIOSQES|ccIOCQES); err != nil {
		return err
	}
	return c.pollStatus(ctx, func(csts uint32) bool { return csts&cstsReady != 0 })
}

// identify reads what the controller can do, and the keep-alive timeout granted.
func (c *Controller) identify(ctx context.Context) error {
	out, err := c.identifyPage(ctx, cnsController, 0)
	if err != nil {
		return err
	}
	if got := le.Uint16(out[78:]); got != c.cntlid {
		return fmt.Errorf("controller id %d at Connect is %d in Identify", c.cntlid, got)
	}
	c.maxIO = hostMaxIO
	if mdts := out[77]; mdts > 0 && mdts < uint8(bits.Len(hostMaxIO/pageSize)) {
		c.maxIO = pageSize << mdts
	}
	c.inline = max(int(le.Uint32(out[1792:]))*16-sqeSize, 0)
	if limit := int(le.Uint16(out[514:])); limit > 1 {
		c.depth = min(c.depth, limit)
	}
	c.hasANA = out[76]&(1<<3) != 0
	c.canDSM = le.Uint16(out[520:])&(1<<2) != 0
	c.anaGroups = int(le.Uint32(out[348:]))
	c.oaes = le.Uint32(out[92:]) & (aecNamespace | aecANA | aecDiscovery)
	if c.cfg.KATO > 0 {
		ms, err := c.adminCommand(ctx, opGetFeatures, 0, nil, featKeepAlive)
		if err != nil {
			return err
		}
		c.kato = time.Duration(uint32(ms)) * time.Millisecond
	}
	if _, err = c.adminCommand(ctx, opSetFeatures, 0, nil, featAsyncEvent, c.oaes); err != nil {
		return err
	}
	return c.identifyLimits(ctx)
}

// identifyLimits reads the limits of commands without data. SPDK cuts a larger
// deallocation off without saying so. A controller that does not know them, as a
// discovery controller, has none.
func (c *Controller) identifyLimits(ctx context.Context) error {
	c.maxZeroes, c.maxDSM = maxZeroBlocks, maxDSMBlocks
	out, err := c.identifyPage(ctx, cnsControllerIOCS, 0)
	var se *StatusError
	switch {
	case errors.As(err, &se) && !se.PathError():
		return nil
	case err != nil:
		return err
	}
	if n := le.Uint32(out[4:]); n > 0 {
		c.maxDSM = min(c.maxDSM, int64(n))
	}
	if shift := out[1]; shift > 0 && shift < 20 {
		// Pages hold one to eight blocks; counting them as one block is safe.
		c.maxZeroes = min(c.maxZeroes, 1<<shift)
	}
	return nil
}

// connectIO asks for I/O queues and connects those granted.
func (c *Controller) connectIO(ctx context.Context) error {
	want := uint32(c.cfg.IOQueues - 1)
	sctx, stop := c.step(ctx)
	granted, err := c.adminCommand(sctx, opSetFeatures, 0, nil, featQueues, want<<16|want)
	stop()
	if err != nil {
		return fmt.Errorf("set the number of queues of %s: %w", c.cfg.SubNQN, err)
	}
	n := min(c.cfg.IOQueues, int(granted&0xffff)+1, int(granted>>16&0xffff)+1)
	for i := range n {
		q, err := dialQueue(ctx, &c.cfg, uint16(i+1), c.depth, c.lostIO)
		if err != nil {
			return err
		}
		c.io = append(c.io, q)
		if _, err := c.fabricsConnect(ctx, q, c.depth, c.cntlid); err != nil {
			return err
		}
		q.inline = c.inline
	}
	return nil
}

// CNTLID is the controller's id.
func (c *Controller) CNTLID() uint16 { return c.cntlid }

// GrantedKATO is the keep-alive timeout that the target granted, 0 if there is none.
func (c *Controller) GrantedKATO() time.Duration { return c.kato }

// CanDeallocate says whether the target announces Dataset Management, without which Linux has no discard.
func (c *Controller) CanDeallocate() bool { return c.canDSM }

// Done is closed when the association has ended and its goroutines have returned.
func (c *Controller) Done() <-chan struct{} { return c.done }

// Err is why the association ended, nil while it lives.
func (c *Controller) Err() error { return context.Cause(c.ctx) }

// Close drops the association without telling the target and waits for its
// goroutines. It may be called more than once.
func (c *Controller) Close() error {
	c.cancel(errClosed)
	<-c.done
	return nil
}
