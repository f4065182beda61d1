package volume

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestEveryPairOfNodesHasKeysOfItsOwn(t *testing.T) {
	first, err := NewSecret([]byte(strings.Repeat("a", 32) + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := NewSecret([]byte(strings.Repeat("b", 32)))
	if err != nil {
		t.Fatal(err)
	}
	v, other := &Volume{UUID: uuid.New()}, &Volume{UUID: uuid.New()}
	seen := map[string]bool{}
	for _, s := range []Secret{first, second} {
		for _, of := range []*Volume{v, other} {
			for _, replica := range []string{"1", "2"} {
				for _, raidHost := range []string{"n1", "n2"} {
					host, controller, err := of.LegKeys(s, Replica{ID: replica}, raidHost)
					again, _, _ := of.LegKeys(s, Replica{ID: replica}, raidHost)
					if err != nil || len(host) != 32 || len(controller) != 32 || !bytes.Equal(host, again) {
						t.Fatalf("%d and %d bytes, %v", len(host), len(controller), err)
					}
					seen[string(host)], seen[string(controller)] = true, true
				}
			}
		}
	}
	if len(seen) != 32 {
		t.Errorf("%d keys differ, want 32", len(seen))
	}
}

func TestKeysOfBothEndsHaveNamesOfTheirOwnBelowTheirPrefix(t *testing.T) {
	v, r := &Volume{UUID: uuid.New()}, Replica{ID: "1"}
	a, b := v.ReplicaKeyNames(r, "n1")
	c, d := v.ReplicaKeyNames(r, "n2")
	e, f := v.LegKeyNames(r)
	seen := map[string]bool{}
	for _, name := range []string{a, b, c, d, e, f} {
		seen[name] = true
		if own := strings.HasPrefix(name, v.ReplicaKeyPrefix(r)); own == strings.HasPrefix(name, v.LegKeyPrefix(r)) || len(name) > 64 {
			t.Errorf("%q has prefixes %q and %q", name, v.ReplicaKeyPrefix(r), v.LegKeyPrefix(r))
		}
	}
	if len(seen) != 6 {
		t.Errorf("names %v", seen)
	}
}

func TestSecretsAreLongAndNeverShown(t *testing.T) {
	text := strings.Repeat("s3cr3t", 8)
	s, err := NewSecret([]byte(text))
	if err != nil || strings.Contains(fmt.Sprintf("%v %+v %#v %s", s, s, s, s), "s3cr3t") {
		t.Errorf("%v, %v", s, err)
	}
	if _, err := NewSecret([]byte("s3cr3t  \n")); err == nil || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("a short one: %v", err)
	}
	if _, _, err := new(Volume).LegKeys(Secret{}, Replica{}, "n1"); err == nil {
		t.Error("an empty one gives keys")
	}
}

func TestReplicaKeyIsANameAndStaysTheVolumes(t *testing.T) {
	p, err := ParseParameters(map[string]string{ParamReplicaKey: "2026-11"})
	if err != nil || p.ReplicaKey != "2026-11" {
		t.Fatalf("%+v, %v", p, err)
	}
	q, _ := ParseParameters(nil)
	if p.Equal(q) {
		t.Error("with and without are the same volume")
	}
	if _, err := p.Modified(map[string]string{ParamReplicaKey: "other"}); err == nil {
		t.Error("it may change")
	}
	for _, bad := range []string{"", "a/b", "a b"} {
		if _, err := ParseParameters(map[string]string{ParamReplicaKey: bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
