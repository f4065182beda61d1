package volume

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
)

// Secret is what keys are derived from. It never prints itself.
type Secret struct{ bytes []byte }

// leastSecret is the length of the shortest secret in bytes.
const leastSecret = 32

// NewSecret reads a secret, white space at its end left off. The error has nothing of it.
func NewSecret(content []byte) (Secret, error) {
	content = bytes.TrimRight(content, " \t\r\n")
	if len(content) < leastSecret {
		return Secret{}, fmt.Errorf("a secret of %d bytes: give %d random ones or more, such as those of `openssl rand -hex 32`", len(content), leastSecret)
	}
	return Secret{bytes.Clone(content)}, nil
}

// String hides the secret.
func (Secret) String() string { return "(hidden)" }

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return s.String() }

// connectionKeyBytes is the length of each key.
const connectionKeyBytes = 32

// LegKeys are the keys of a replica and one of its raid hosts: host is what the raid host proves itself with, controller what the replica's
// node does.
func (v *Volume) LegKeys(s Secret, r Replica, raidHost string) (host, controller []byte, err error) {
	return derive(s, "holdfast leg", v.ReplicaNQN(r), SPDKHostNQN(raidHost))
}

// HostKeys are the keys of the volume's target, the same on every raid host, and one of its hosts: host is what the host proves itself with,
// controller what the raid host does.
func (v *Volume) HostKeys(s Secret, hostNQN string) (host, controller []byte, err error) {
	return derive(s, "holdfast host", v.NQN(), hostNQN)
}

// derive returns the two keys of a subsystem and a host. They are HKDF's (RFC 5869) with SHA-256 of the secret, what they are for and the two
// names, so that nothing of them has to be stored, and whoever learns one pair learns nothing about another.
func derive(s Secret, purpose, nqn, hostNQN string) (host, controller []byte, err error) {
	if len(s.bytes) == 0 {
		return nil, nil, errors.New("keys of nothing: the secret is empty")
	}
	both, err := hkdf.Key(sha256.New, s.bytes, nil, purpose+"\x00"+nqn+"\x00"+hostNQN, 2*connectionKeyBytes)
	if err != nil {
		return nil, nil, fmt.Errorf("derive the keys of %s and %s: %w", nqn, hostNQN, err)
	}
	return both[:connectionKeyBytes], both[connectionKeyBytes:], nil
}

// What an SPDK node has keys as: one that is several of these has keys of several names, so that one can be dropped and the others stay.
const (
	replicaEnd = "r" // as the node of a replica, for a raid host
	hostEnd    = "h" // as a raid host, for a replica
	targetEnd  = "t" // as a raid host, for a host
)

// ReplicaKeyPrefix begins the names of all keys that the node of a replica has for it.
func (v *Volume) ReplicaKeyPrefix(r Replica) string { return keyPrefix(v.ReplicaNQN(r), replicaEnd) }

// ReplicaKeyNames are what the node of a replica calls its keys for a raid host.
func (v *Volume) ReplicaKeyNames(r Replica, raidHost string) (host, controller string) {
	name := v.ReplicaKeyPrefix(r) + shortDigest(raidHost)
	return name + "-h", name + "-c"
}

// LegKeyPrefix begins the names of all keys that a raid host has for a replica.
func (v *Volume) LegKeyPrefix(r Replica) string { return keyPrefix(v.ReplicaNQN(r), hostEnd) }

// LegKeyNames are what a raid host calls its keys for a replica.
func (v *Volume) LegKeyNames(r Replica) (host, controller string) {
	name := v.LegKeyPrefix(r)
	return name + "h", name + "c"
}

// TargetKeyPrefix begins the names of all keys that a raid host has for hosts of the volume.
func (v *Volume) TargetKeyPrefix() string { return keyPrefix(v.NQN(), targetEnd) }

// HostKeyPrefix begins the names of the keys that a raid host has for one host of the volume.
func (v *Volume) HostKeyPrefix(hostNQN string) string {
	return v.TargetKeyPrefix() + shortDigest(hostNQN) + "-"
}

// HostKeyNames are what a raid host calls its keys for a host of the volume.
func (v *Volume) HostKeyNames(hostNQN string) (host, controller string) {
	name := v.HostKeyPrefix(hostNQN)
	return name + "h", name + "c"
}

func keyPrefix(nqn, end string) string { return ObjectPrefix + shortDigest(nqn) + "-" + end + "-" }

// shortDigest is a short name for a long one, which keys may have.
func shortDigest(name string) string { return digest(name)[:16] }
