// Package dhchap is the arithmetic of DH-HMAC-CHAP, NVMe's in-band authentication (NVM Express Base 2.0, 8.13.5): keys, Diffie-Hellman groups
// and the values that answer a challenge. Messages and their order are package nvmetcp's.
package dhchap

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"strconv"
	"strings"
)

// Hash is the identifier of a hash function.
type Hash uint8

// Hash functions.
const (
	SHA256 Hash = 1
	SHA384 Hash = 2
	SHA512 Hash = 3
)

// Hashes are all hash functions, the strongest first.
var Hashes = []Hash{SHA512, SHA384, SHA256}

// new returns the hash function, nil for an identifier that has none.
func (h Hash) new() func() hash.Hash {
	switch h {
	case SHA256:
		return sha256.New
	case SHA384:
		return sha512.New384
	case SHA512:
		return sha512.New
	}
	return nil
}

// Len is the length of the function's results in bytes, 0 for an identifier that has none.
func (h Hash) Len() int {
	if f := h.new(); f != nil {
		return f().Size()
	}
	return 0
}

func (h Hash) mac(key []byte, parts ...[]byte) []byte {
	m := hmac.New(h.new(), key)
	for _, p := range parts {
		m.Write(p)
	}
	return m.Sum(nil)
}

// ErrKey says that a text is no key.
var ErrKey = errors.New("not a DH-HMAC-CHAP key")

// transformed reads a key's text, DHHC-1:hh:base64(key, CRC-32):, and transforms the key for who has it as the hash hh says, 00 being none
// (NVMe-over-Fabrics keys, 8.13.5.8). No error has any of the text.
func transformed(text, nqn string) ([]byte, error) {
	parts := strings.Split(text, ":")
	if len(parts) < 4 || parts[0] != "DHHC-1" {
		return nil, fmt.Errorf("%w: the format DHHC-1:hh:base64: is wanted", ErrKey)
	}
	by, err := strconv.ParseUint(parts[1], 16, 8)
	if err != nil || by > uint64(SHA512) {
		return nil, fmt.Errorf("%w: unknown hash", ErrKey)
	}
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil {
		return nil, fmt.Errorf("%w: not base64", ErrKey)
	}
	n := len(raw) - crc32.Size
	if n != 32 && n != 48 && n != 64 {
		return nil, fmt.Errorf("%w: %d bytes instead of 32, 48 or 64", ErrKey, n)
	}
	key := raw[:n]
	if crc32.ChecksumIEEE(key) != binary.LittleEndian.Uint32(raw[n:]) {
		return nil, fmt.Errorf("%w: wrong checksum", ErrKey)
	}
	if by == 0 {
		return key, nil
	}
	return Hash(by).mac(key, []byte(nqn), []byte("NVMe-over-Fabrics")), nil
}

// Challenge is what one side asks of the other.
type Challenge struct {
	Hash  Hash
	Value []byte // as long as the hash's results
	// Sequence and Transaction are the challenge's sequence number and the transaction's identifier.
	Sequence    uint32
	Transaction uint16
	// Secret is what both made with Diffie-Hellman, nil without a group.
	Secret []byte
}

// Answer returns what who has the key answers (8.13.5.5 and 8.13.5.6).
func (c Challenge) Answer(keyText string, who Role, own, peer string) ([]byte, error) {
	key, err := transformed(keyText, own)
	if err != nil {
		return nil, err
	}
	value := c.Value
	if c.Secret != nil {
		f := c.Hash.new()()
		f.Write(c.Secret)
		value = c.Hash.mac(f.Sum(nil), value)
	}
	var numbers [7]byte // the last is that no secure channel is concatenated
	binary.LittleEndian.PutUint32(numbers[:], c.Sequence)
	binary.LittleEndian.PutUint16(numbers[4:], c.Transaction)
	return c.Hash.mac(key, value, numbers[:], []byte(who), []byte(own), []byte{0}, []byte(peer)), nil
}

// Role is who answers.
type Role string

// Roles.
const (
	Host       Role = "HostHost"
	Controller Role = "Controller"
)
