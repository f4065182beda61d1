package dhchap

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"sync"
)

// Group is the identifier of a Diffie-Hellman group.
type Group uint8

// Groups: none, and those of RFC 7919.
const (
	NoGroup   Group = 0
	FFDHE2048 Group = 1
	FFDHE3072 Group = 2
	FFDHE4096 Group = 3
	FFDHE6144 Group = 4
	FFDHE8192 Group = 5
)

// Groups are all groups, the strongest first.
var Groups = []Group{FFDHE8192, FFDHE6144, FFDHE4096, FFDHE3072, FFDHE2048, NoGroup}

// ErrGroup says that a value is no public key of a group.
var ErrGroup = errors.New("not a public key of the Diffie-Hellman group")

// exponentBits is the length of private keys: twice the strength of the largest group (RFC 7919, A.5).
const exponentBits = 400

// parameters are a group's length in bits and the number that RFC 7919, appendix A adds.
var parameters = map[Group]struct{ bits, add uint }{
	FFDHE2048: {2048, 560316}, FFDHE3072: {3072, 2625351}, FFDHE4096: {4096, 5736041}, FFDHE6144: {6144, 15705020}, FFDHE8192: {8192, 10965728},
}

// Known says whether there is a group of that identifier.
func (g Group) Known() bool { return g <= FFDHE8192 }

// primes are made when they are first used.
var primes sync.Map

// prime is 2^b - 2^(b-64) + (floor(2^(b-130) e) + X) 2^64 - 1 (RFC 7919, appendix A).
func (g Group) prime() *big.Int {
	if p, ok := primes.Load(g); ok {
		return p.(*big.Int)
	}
	b := parameters[g].bits
	p := new(big.Int).Lsh(big.NewInt(1), b)
	p.Sub(p, new(big.Int).Lsh(big.NewInt(1), b-64))
	middle := e(b - 130)
	middle.Add(middle, new(big.Int).SetUint64(uint64(parameters[g].add)))
	p.Add(p, middle.Lsh(middle, 64))
	p.Sub(p, big.NewInt(1))
	primes.Store(g, p)
	return p
}

// e is floor(2^bits e), from the sum of 1/n! with bits to spare.
func e(bits uint) *big.Int {
	const spare = 64
	term := new(big.Int).Lsh(big.NewInt(1), bits+spare)
	sum := new(big.Int)
	for n := int64(1); term.Sign() > 0; n++ {
		sum.Add(sum, term)
		term.Div(term, big.NewInt(n))
	}
	return sum.Rsh(sum, spare)
}

// Key is one side's key of a group.
type Key struct {
	group   Group
	private *big.Int
}

// NewKey makes a key.
func NewKey(g Group) (*Key, error) {
	if _, ok := parameters[g]; !ok {
		return nil, fmt.Errorf("no Diffie-Hellman group has identifier %d", g)
	}
	private, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), exponentBits))
	if err != nil {
		return nil, err
	}
	return &Key{g, private.SetBit(private, exponentBits-1, 1)}, nil
}

// Public is the key's public part, as long as the group's prime.
func (k *Key) Public() []byte { return k.power(big.NewInt(2)) }

func (k *Key) power(base *big.Int) []byte {
	p := k.group.prime()
	return new(big.Int).Exp(base, k.private, p).FillBytes(make([]byte, (p.BitLen()+7)/8))
}

// Secret is what both sides make of their key and the other's public part, as long as the group's prime.
func (k *Key) Secret(public []byte) ([]byte, error) {
	p, peer := k.group.prime(), new(big.Int).SetBytes(public)
	if len(public) == 0 || peer.Cmp(big.NewInt(1)) <= 0 || peer.Cmp(new(big.Int).Sub(p, big.NewInt(1))) >= 0 {
		return nil, ErrGroup
	}
	return k.power(peer), nil
}
