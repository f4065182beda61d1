package nvmetcp

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp/dhchap"
)

// HostAuth is how a host authenticates. Key proves the host to controllers that ask for it; with a ControllerKey the controller has to prove
// itself, asked or not.
type HostAuth struct {
	Key, ControllerKey KeySource
	Algorithms         AuthAlgorithms
}

// Errors of an authentication.
var (
	// ErrAuthKeyMissing says that the controller asks for authentication and the host has no key.
	ErrAuthKeyMissing = errors.New("the controller asks for authentication, for which there is no key")
	// ErrAuthFailed says that one side has not proved itself to the other.
	ErrAuthFailed = errors.New("authentication failed")
)

// authBuffer is how much a host receives at once, as SPDK and Linux do.
const authBuffer = 4096

// SetAuth changes how the host authenticates from now on.
func (c *Controller) SetAuth(a *HostAuth) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.auth = a
}

// Authenticate authenticates all queues again.
func (c *Controller) Authenticate(ctx context.Context) error {
	for _, q := range c.queues() {
		if err := c.authenticate(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// authenticateIfDue authenticates a queue where the controller asks for it in its answer to Connect, or has to prove itself.
func (c *Controller) authenticateIfDue(ctx context.Context, q *queue, answer uint64) error {
	c.mu.Lock()
	due := answer&connectATR != 0 || c.auth != nil && c.auth.ControllerKey != nil
	c.mu.Unlock()
	if !due {
		return nil
	}
	return c.authenticate(ctx, q)
}

func (c *Controller) authenticate(ctx context.Context, q *queue) error {
	c.mu.Lock()
	c.transaction++
	x := hostAuthentication{c: c, q: q, auth: c.auth, transaction: c.transaction}
	c.mu.Unlock()
	err := ErrAuthKeyMissing
	if x.auth != nil && x.auth.Key != nil {
		err = x.run(ctx)
	}
	if err != nil {
		return fmt.Errorf("authenticate queue %d of %s at %s as %s: %w", q.id, c.cfg.SubNQN, c.cfg.Addr, c.cfg.HostNQN, err)
	}
	return nil
}

// hostAuthentication is the authentication of a queue, the host's side.
type hostAuthentication struct {
	c           *Controller
	q           *queue
	auth        *HostAuth
	transaction uint16
}

func (x *hostAuthentication) run(ctx context.Context) error {
	if err := x.send(ctx, x.negotiation()); err != nil {
		return err
	}
	m, err := x.receive(ctx, authChallenge)
	if err != nil {
		return err
	}
	reply, expected, err := x.answer(m)
	if err != nil {
		return err
	}
	if err := x.send(ctx, reply); err != nil {
		return err
	}
	if m, err = x.receive(ctx, authSuccess1); err != nil || expected == nil {
		return err
	}
	if n := len(expected); m[8] == 0 || int(m[6]) != n || subtle.ConstantTimeCompare(m[authBody:authBody+n], expected) == 0 {
		// What the target makes of the failure changes nothing: the queue is given up.
		_ = x.send(ctx, failureMessage(authFailure2, x.transaction, AuthFailed))
		return fmt.Errorf("%w: the controller has not proved itself", ErrAuthFailed)
	}
	return x.send(ctx, authMessage(authDHCHAP, authSuccess2, x.transaction, authBody))
}

// negotiation offers what the host accepts, the weakest first, as SPDK does.
func (x *hostAuthentication) negotiation() []byte {
	m := authMessage(authCommon, authNegotiate, x.transaction, authHeader+authDescriptor)
	m[7] = 1
	d := m[authHeader:]
	d[0] = authDHCHAP
	for _, h := range slices.Backward(accepted(dhchap.Hashes, x.auth.Algorithms.Hashes)) {
		d[4+d[2]] = uint8(h)
		d[2]++
	}
	for _, g := range slices.Backward(accepted(dhchap.Groups, x.auth.Algorithms.Groups)) {
		d[34+d[3]] = uint8(g)
		d[3]++
	}
	return m
}

// answer returns the reply to a challenge, and what the controller has to answer to the one in it, nil without one.
func (x *hostAuthentication) answer(m []byte) (reply, expected []byte, err error) {
	c := dhchap.Challenge{Hash: dhchap.Hash(m[8]), Sequence: le.Uint32(m[12:]), Transaction: x.transaction}
	group, n, dhLen := dhchap.Group(m[9]), c.Hash.Len(), int(le.Uint16(m[10:]))
	if n == 0 || int(m[6]) != n || c.Sequence == 0 || authBody+n+dhLen > len(m) || group.Known() && (group == dhchap.NoGroup) != (dhLen == 0) ||
		!slices.Contains(accepted(dhchap.Hashes, x.auth.Algorithms.Hashes), c.Hash) || !slices.Contains(accepted(dhchap.Groups, x.auth.Algorithms.Groups), group) {
		return nil, nil, fmt.Errorf("%w: the controller's challenge is not in order", ErrAuthFailed)
	}
	c.Value = m[authBody : authBody+n]
	var public []byte
	if group != dhchap.NoGroup {
		key, err := dhchap.NewKey(group)
		if err != nil {
			return nil, nil, err
		}
		public = key.Public()
		if c.Secret, err = key.Secret(m[authBody+n : authBody+n+dhLen]); err != nil {
			return nil, nil, err
		}
	}
	host, sub := x.c.cfg.HostNQN, x.c.cfg.SubNQN
	own, err := answer(x.auth.Key, c, dhchap.Host, host, sub)
	if err != nil {
		return nil, nil, err
	}
	reply = authMessage(authDHCHAP, authReply, x.transaction, authBody+2*n+len(public))
	reply[6] = uint8(n)
	le.PutUint16(reply[10:], uint16(len(public)))
	copy(reply[authBody:], own)
	copy(reply[authBody+2*n:], public)
	if x.auth.ControllerKey == nil {
		return reply, nil, nil
	}
	theirs := dhchap.Challenge{Hash: c.Hash, Value: reply[authBody+n : authBody+2*n], Sequence: uint32(x.transaction) + 1, Transaction: x.transaction, Secret: c.Secret}
	if _, err := rand.Read(theirs.Value); err != nil {
		return nil, nil, err
	}
	reply[8] = 1
	le.PutUint32(reply[12:], theirs.Sequence)
	expected, err = answer(x.auth.ControllerKey, theirs, dhchap.Controller, sub, host)
	return reply, expected, err
}

func (x *hostAuthentication) command(fctype uint8, n int) sqe {
	var cmd sqe
	cmd[0], cmd[4] = opFabrics, fctype
	cmd[41], cmd[42], cmd[43] = authSPSP, authSPSP, authSECP
	le.PutUint32(cmd[authLength:], uint32(n))
	return cmd
}

func (x *hostAuthentication) send(ctx context.Context, m []byte) error {
	ctx, stop := x.c.step(ctx)
	defer stop()
	cmd := x.command(fctypeAuthSend, len(m))
	_, err := x.q.do(ctx, &cmd, m)
	return err
}

// receive returns the target's message, which has to be the one that is due.
func (x *hostAuthentication) receive(ctx context.Context, id uint8) ([]byte, error) {
	ctx, stop := x.c.step(ctx)
	defer stop()
	m := make([]byte, authBuffer)
	cmd := x.command(fctypeAuthReceive, len(m))
	if _, err := x.q.do(ctx, &cmd, m); err != nil {
		return nil, err
	}
	switch {
	case m[0] == authDHCHAP && m[1] == id && le.Uint16(m[4:]) == x.transaction:
		return m, nil
	case m[0] == authCommon && m[1] == authFailure1:
		return nil, fmt.Errorf("%w: the controller refuses the host, reason %d", ErrAuthFailed, m[7])
	}
	return nil, fmt.Errorf("%w: message %d/%d came instead of %d", ErrAuthFailed, m[0], m[1], id)
}
