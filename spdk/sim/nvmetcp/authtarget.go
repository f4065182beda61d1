package nvmetcp

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp/dhchap"
)

// Times of an authentication (lib/nvmf/auth.c): how long a host may take between two messages if it has no keep-alive, and how long after a
// failure its queue pair is disconnected.
const (
	authTimeout      = 120 * time.Second
	authFailureDelay = 100 * time.Millisecond
)

// authState is what message is due.
type authState uint8

const (
	authAwaitsNegotiate authState = iota
	authOwesChallenge
	authAwaitsReply
	authOwesSuccess1
	authAwaitsSuccess2
	authOwesFailure1
	authIsDone
)

// authentication is the authentication of a queue pair, the target's side. Its methods answer one command after another.
type authentication struct {
	q     *qpair
	a     *association
	timer *time.Timer
	over  chan struct{} // closed when it has succeeded

	mu          sync.Mutex
	state       authState
	reason      AuthReason
	transaction uint16
	hash        dhchap.Hash
	group       dhchap.Group
	key         *dhchap.Key
	challenge   dhchap.Challenge
	response    []byte // for the host's challenge, nil without one
}

// SetHostKeys says with which keys a host that is allowed by name has to authenticate from now on; nil is without. Queue pairs that are
// connected stay.
func (s *Subsystem) SetHostKeys(host string, keys *HostKeys) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[host] = keys
}

func (s *Subsystem) keysOf(host string) *HostKeys {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[host]
}

// requireAuthentication makes a queue pair that was just connected take nothing but authentication; it returns the bit that says so in
// Connect's answer (nvmf_ctrlr_send_connect_rsp).
func (q *qpair) requireAuthentication(a *association) (result uint64) {
	if a.sub.keysOf(a.hostNQN) == nil {
		return 0
	}
	q.mu.Lock()
	q.barred = true
	q.mu.Unlock()
	q.beginAuthentication(a)
	return connectATR
}

func (q *qpair) beginAuthentication(a *association) *authentication {
	x := &authentication{q: q, a: a, timer: stoppedTimer(), over: make(chan struct{})}
	x.rearm()
	q.mu.Lock()
	q.auth = x
	q.mu.Unlock()
	q.t.spawn(x.watch)
	return x
}

// watch disconnects a queue pair that has failed, or takes too long; an authentication that was not due may take as long as it likes.
func (x *authentication) watch() {
	defer x.timer.Stop()
	select {
	case <-x.over:
		return
	case <-x.q.ctx.Done():
		return
	case <-x.timer.C:
	}
	x.mu.Lock()
	failed := x.state == authOwesFailure1
	x.state = authIsDone
	x.mu.Unlock()
	x.q.mu.Lock()
	barred := x.q.barred
	x.q.mu.Unlock()
	if failed || barred {
		x.q.t.log.Info("Disconnecting a host", "reason", "it has not authenticated", "nqn", x.a.sub.cfg.NQN, "host", x.a.hostNQN, "failed", failed)
		x.q.drain()
	}
}

func (x *authentication) rearm() {
	x.a.mu.Lock()
	d := x.a.kato
	x.a.mu.Unlock()
	if d == 0 {
		d = authTimeout
	}
	x.timer.Reset(d)
}

// authenticate serves Authentication Send and Receive (nvmf_auth_request_exec).
func (q *qpair) authenticate(a *association, r *request) response {
	if r.cmd[43] != authSECP || r.cmd[41] != authSPSP || r.cmd[42] != authSPSP || le.Uint32(r.cmd[authLength:]) != r.cmd.sglLength() {
		return failed(generic(SCInvalidField).dnr())
	}
	q.mu.Lock()
	x := q.auth
	q.mu.Unlock()
	if x == nil || x.isDone() {
		x = q.beginAuthentication(a) // a host may authenticate again at any time
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if r.cmd.fctype() == fctypeAuthSend {
		if why := x.take(r.bytes()); why != 0 {
			x.q.t.log.Info("Authentication fails", "nqn", a.sub.cfg.NQN, "host", a.hostNQN, "reason", why)
			x.state, x.reason = authOwesFailure1, why // which the host learns when it receives
		}
		return response{}
	}
	r.ensureData()
	m := x.give()
	if len(m) > len(r.bytes()) {
		x.state = authOwesFailure1
		x.timer.Reset(authFailureDelay)
		return failed(generic(SCInvalidField).dnr())
	}
	copy(r.bytes(), m)
	return response{}
}

func (x *authentication) isDone() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.state == authIsDone
}

// take takes a message of the host; 0 is that it is in order.
func (x *authentication) take(m []byte) AuthReason {
	if len(m) < authHeader {
		return AuthBadPayload
	}
	switch {
	case m[0] == authCommon && m[1] == authNegotiate && x.state == authAwaitsNegotiate:
		return x.negotiate(m)
	case m[0] == authDHCHAP && m[1] == authReply && x.state == authAwaitsReply:
		return x.reply(m)
	case m[0] == authDHCHAP && m[1] == authSuccess2 && x.state == authAwaitsSuccess2:
		if len(m) != authBody || le.Uint16(m[4:]) != x.transaction {
			return AuthBadPayload
		}
		x.succeed()
		return 0
	case m[0] == authCommon && m[1] == authFailure2 && x.state == authAwaitsSuccess2:
		return AuthFailed
	}
	return AuthBadMessage
}

// negotiate chooses the strongest hash and group that both sides accept.
func (x *authentication) negotiate(m []byte) AuthReason {
	x.transaction = le.Uint16(m[4:])
	count := int(m[7])
	switch {
	case len(m) != authHeader+count*authDescriptor:
		return AuthBadPayload
	case m[6] != 0:
		return AuthNoConcatenation
	}
	for d := range slices.Chunk(m[authHeader:], authDescriptor) {
		if d[0] != authDHCHAP {
			continue
		}
		hashes, groups := int(d[2]), int(d[3])
		if hashes > 30 || groups > 30 {
			return AuthBadPayload
		}
		of := x.q.t.algorithms()
		h := slices.IndexFunc(accepted(dhchap.Hashes, of.Hashes), func(h dhchap.Hash) bool { return slices.Contains(d[4:4+hashes], byte(h)) })
		if h < 0 {
			return AuthNoHash
		}
		g := slices.IndexFunc(accepted(dhchap.Groups, of.Groups), func(g dhchap.Group) bool { return slices.Contains(d[34:34+groups], byte(g)) })
		if g < 0 {
			return AuthNoGroup
		}
		x.hash, x.group = accepted(dhchap.Hashes, of.Hashes)[h], accepted(dhchap.Groups, of.Groups)[g]
		x.state = authOwesChallenge
		x.rearm()
		return 0
	}
	return AuthNoProtocol
}

// reply checks the host's answer to the challenge, and answers its own if there is one.
func (x *authentication) reply(m []byte) AuthReason {
	n := x.hash.Len()
	if len(m) < authBody {
		return AuthBadPayload
	}
	dhLen, challenged, sequence := int(le.Uint16(m[10:])), m[8], le.Uint32(m[12:])
	if int(m[6]) != n || dhLen%4 != 0 || len(m) != authBody+2*n+dhLen || le.Uint16(m[4:]) != x.transaction || challenged > 1 || challenged == 1 && sequence == 0 {
		return AuthBadPayload
	}
	keys := x.a.sub.keysOf(x.a.hostNQN)
	if keys == nil {
		return AuthFailed
	}
	var err error
	if x.key != nil {
		if x.challenge.Secret, err = x.key.Secret(m[authBody+2*n:]); err != nil {
			return AuthFailed
		}
	}
	host, sub := x.a.hostNQN, x.a.sub.cfg.NQN
	want, err := answer(keys.Host, x.challenge, dhchap.Host, host, sub)
	if err != nil || subtle.ConstantTimeCompare(m[authBody:authBody+n], want) == 0 {
		return AuthFailed
	}
	if challenged == 1 {
		own := dhchap.Challenge{Hash: x.hash, Value: m[authBody+n : authBody+2*n], Sequence: sequence, Transaction: x.transaction, Secret: x.challenge.Secret}
		if x.response, err = answer(keys.Controller, own, dhchap.Controller, sub, host); err != nil {
			return AuthFailed
		}
	}
	x.state = authOwesSuccess1
	x.rearm()
	return 0
}

var errNoKey = errors.New("there is no such key")

func answer(key KeySource, c dhchap.Challenge, who dhchap.Role, own, peer string) ([]byte, error) {
	if key == nil {
		return nil, errNoKey
	}
	text, err := key()
	if err != nil {
		return nil, err
	}
	return c.Answer(text, who, own, peer)
}

// give returns the message that is due.
func (x *authentication) give() []byte {
	switch x.state {
	case authOwesChallenge:
		if m := x.challengeMessage(); m != nil {
			x.state = authAwaitsReply
			x.rearm()
			return m
		}
		x.reason = AuthFailed
	case authOwesSuccess1:
		n := x.hash.Len()
		m := authMessage(authDHCHAP, authSuccess1, x.transaction, authBody+len(x.response))
		m[6] = uint8(n)
		if x.response == nil {
			x.succeed()
			return m
		}
		m[8] = 1
		copy(m[authBody:], x.response)
		x.state = authAwaitsSuccess2
		x.rearm()
		return m
	case authOwesFailure1:
	default:
		x.reason = AuthBadMessage
	}
	x.state = authOwesFailure1
	x.timer.Reset(authFailureDelay)
	return failureMessage(authFailure1, x.transaction, x.reason)
}

func (x *authentication) challengeMessage() []byte {
	n := x.hash.Len()
	var public []byte
	x.key = nil
	if x.group != dhchap.NoGroup {
		key, err := dhchap.NewKey(x.group)
		if err != nil {
			return nil
		}
		x.key, public = key, key.Public()
	}
	x.challenge = dhchap.Challenge{Hash: x.hash, Value: make([]byte, n), Sequence: x.a.sub.nextSequence(), Transaction: x.transaction}
	if _, err := rand.Read(x.challenge.Value); err != nil {
		return nil
	}
	m := authMessage(authDHCHAP, authChallenge, x.transaction, authBody+n+len(public))
	m[6], m[8], m[9] = uint8(n), uint8(x.hash), uint8(x.group)
	le.PutUint16(m[10:], uint16(len(public)))
	le.PutUint32(m[12:], x.challenge.Sequence)
	copy(m[authBody:], x.challenge.Value)
	copy(m[authBody+n:], public)
	return m
}

// succeed opens the queue pair.
func (x *authentication) succeed() {
	x.state = authIsDone
	close(x.over)
	x.q.mu.Lock()
	x.q.barred = false
	x.q.mu.Unlock()
}

// nextSequence is the sequence number of a challenge; it is never 0.
func (s *Subsystem) nextSequence() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sequence++; s.sequence == 0 {
		s.sequence = 1
	}
	return s.sequence
}

// SetAuthAlgorithms says what the target accepts from now on.
func (t *Target) SetAuthAlgorithms(a AuthAlgorithms) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.auth = a
}

func (t *Target) algorithms() AuthAlgorithms {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.auth
}
