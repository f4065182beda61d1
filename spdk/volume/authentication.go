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
// node does. They are HKDF's (RFC 5869) with SHA-256 of the secret and the two names, so that nothing of them has to be stored, and whoever
// learns one pair learns nothing about another.
func (v *Volume) LegKeys(s Secret, r Replica, raidHost string) (host, controller []byte, err error) {
	if len(s.bytes) == 0 {
		return nil, nil, errors.New("keys of nothing: the secret is empty")
	}
	both, err := hkdf.Key(sha256.New, s.bytes, nil, "holdfast leg\x00"+v.ReplicaNQN(r)+"\x00"+SPDKHostNQN(raidHost), 2*connectionKeyBytes)
	if err != nil {
		return nil, nil, fmt.Errorf("derive the keys of %s and %s: %w", v.ReplicaNQN(r), raidHost, err)
	}
	return both[:connectionKeyBytes], both[connectionKeyBytes:], nil
}

// Ends of a leg: a node that is both has keys of two names, so that one can be dropped and the other stays.
const (
	replicaEnd = "r"
	hostEnd    = "h"
)

// ReplicaKeyPrefix begins the names of all keys that the node of a replica has for it.
func (v *Volume) ReplicaKeyPrefix(r Replica) string { return v.keyPrefix(r, replicaEnd) }

// ReplicaKeyNames are what the node of a replica calls its keys for a raid host.
func (v *Volume) ReplicaKeyNames(r Replica, raidHost string) (host, controller string) {
	name := v.keyPrefix(r, replicaEnd) + shortDigest(raidHost)
	return name + "-h", name + "-c"
}

// LegKeyPrefix begins the names of all keys that a raid host has for a replica.
func (v *Volume) LegKeyPrefix(r Replica) string { return v.keyPrefix(r, hostEnd) }

// LegKeyNames are what a raid host calls its keys for a replica.
func (v *Volume) LegKeyNames(r Replica) (host, controller string) {
	name := v.keyPrefix(r, hostEnd)
	return name + "h", name + "c"
}

func (v *Volume) keyPrefix(r Replica, end string) string {
	return "hf-" + shortDigest(v.ReplicaNQN(r)) + "-" + end + "-"
}

// shortDigest is a short name for a long one, which keys may have.
func shortDigest(name string) string { return digest(name)[:16] }
