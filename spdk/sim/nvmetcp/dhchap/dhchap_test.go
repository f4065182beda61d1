package dhchap

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math/big"
	"strings"
	"testing"
)

func keyText(by string, key []byte) string {
	sum := binary.LittleEndian.AppendUint32(bytes.Clone(key), crc32.ChecksumIEEE(key))
	return "DHHC-1:" + by + ":" + base64.StdEncoding.EncodeToString(sum) + ":"
}

// The beginning and the end of each prime are as RFC 7919 prints them; that it is one of a group, a safe prime, leaves no room for errors
// between.
func TestGroupsAreThoseOfRFC7919(t *testing.T) {
	for g, end := range map[Group]string{
		FFDHE2048: "886b423861285c97ffffffffffffffff", FFDHE3072: "25e41d2b66c62e37ffffffffffffffff", FFDHE4096: "c68a007e5e655f6affffffffffffffff",
		FFDHE6144: "a41d570d7938dad4a40e329cd0e40e65ffffffffffffffff", FFDHE8192: "d68c8bb7c5c6424cffffffffffffffff",
	} {
		p := g.prime()
		text := hex.EncodeToString(p.Bytes())
		if !strings.HasPrefix(text, "ffffffffffffffffadf85458a2bb4a9aafdc5620273d3cf1") || !strings.HasSuffix(text, end) || p.BitLen() != int(parameters[g].bits) {
			t.Errorf("group %d: the prime is %s...%s", g, text[:48], text[len(text)-48:])
		}
		if g <= FFDHE3072 && (!p.ProbablyPrime(1) || !new(big.Int).Rsh(p, 1).ProbablyPrime(1)) { // the larger ones take seconds
			t.Errorf("group %d: no safe prime", g)
		}
	}
}

func TestBothSidesMakeTheSameSecret(t *testing.T) {
	for _, g := range Groups {
		if g == NoGroup {
			continue
		}
		a, err := NewKey(g)
		if err != nil {
			t.Fatal(err)
		}
		b, err := NewKey(g)
		if err != nil {
			t.Fatal(err)
		}
		one, err := a.Secret(b.Public())
		other, errOther := b.Secret(a.Public())
		if err != nil || errOther != nil || !bytes.Equal(one, other) || len(one) != int(parameters[g].bits)/8 {
			t.Errorf("group %d: %d and %d bytes (%v, %v)", g, len(one), len(other), err, errOther)
		}
		if _, err := a.Secret([]byte{1}); !errors.Is(err, ErrGroup) {
			t.Errorf("1 is taken: %v", err)
		}
	}
}

func TestAnswersDependOnEverything(t *testing.T) {
	key := keyText("01", bytes.Repeat([]byte{7}, 32))
	c := Challenge{Hash: SHA256, Value: make([]byte, 32), Sequence: 3, Transaction: 4, Secret: []byte{1}}
	seen := map[string]string{}
	check := func(what string, c Challenge, key string, who Role, own, peer string) {
		answer, err := c.Answer(key, who, own, peer)
		if err != nil || len(answer) != c.Hash.Len() {
			t.Fatalf("%s: %d bytes, %v", what, len(answer), err)
		}
		if other, ok := seen[string(answer)]; ok {
			t.Errorf("%s answers as %s does", what, other)
		}
		seen[string(answer)] = what
	}
	check("the first", c, key, Host, "a", "b")
	check("another host", c, key, Host, "x", "b")
	check("another subsystem", c, key, Host, "a", "x")
	check("the controller", c, key, Controller, "a", "b")
	check("another key", c, keyText("01", bytes.Repeat([]byte{8}, 32)), Host, "a", "b")
	check("a key that isn't transformed", c, keyText("00", bytes.Repeat([]byte{7}, 32)), Host, "a", "b")
	check("a longer key", c, keyText("01", bytes.Repeat([]byte{7}, 64)), Host, "a", "b")
	for what, change := range map[string]func(*Challenge){
		"another value": func(c *Challenge) { c.Value = bytes.Repeat([]byte{1}, 32) }, "another sequence": func(c *Challenge) { c.Sequence++ },
		"another transaction": func(c *Challenge) { c.Transaction++ }, "another secret": func(c *Challenge) { c.Secret = []byte{2} },
		"no secret": func(c *Challenge) { c.Secret = nil }, "another hash": func(c *Challenge) { c.Hash = SHA512 },
	} {
		d := c
		change(&d)
		check(what, d, key, Host, "a", "b")
	}
}

func TestWhatIsNoKeyIsRefusedWithoutShowingIt(t *testing.T) {
	good := keyText("01", bytes.Repeat([]byte{7}, 32))
	for _, text := range []string{
		"", "DHHC-1:01:", strings.Replace(good, "DHHC-1", "DHHC-2", 1), strings.Replace(good, ":01:", ":04:", 1), strings.Replace(good, ":01:", ":zz:", 1),
		"DHHC-1:01:=:", keyText("01", make([]byte, 16)), strings.Replace(good, "Bwc", "Bwd", 1),
	} {
		_, err := Challenge{Hash: SHA256}.Answer(text, Host, "a", "b")
		if !errors.Is(err, ErrKey) || len(text) > 20 && strings.Contains(err.Error(), text[10:]) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
