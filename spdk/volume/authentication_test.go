package volume

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestEveryPairHasKeysOfItsOwn(t *testing.T) {
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
			for _, node := range []string{"n1", "n2"} {
				host, controller, err := of.HostKeys(s, HostNQN(node))
				again, _, _ := of.HostKeys(s, HostNQN(node))
				if err != nil || len(host) != 32 || len(controller) != 32 || !bytes.Equal(host, again) {
					t.Fatalf("%d and %d bytes, %v", len(host), len(controller), err)
				}
				seen[string(host)], seen[string(controller)] = true, true
			}
		}
	}
	if len(seen) != 48 {
		t.Errorf("%d keys differ, want 48", len(seen))
	}
}

// A node may be that of a replica, raid host of it, and raid host of the volume's hosts: whatever it drops by a prefix is of one of these.
func TestKeysHaveNamesOfTheirOwnBelowTheirPrefix(t *testing.T) {
	v, r := &Volume{UUID: uuid.New()}, Replica{ID: "1"}
	below := map[string][]string{}
	add := func(prefix string, names ...string) { below[prefix] = append(below[prefix], names...) }
	both := func(host, controller string) []string { return []string{host, controller} }
	add(v.ReplicaKeyPrefix(r), both(v.ReplicaKeyNames(r, "n1"))...)
	add(v.ReplicaKeyPrefix(r), both(v.ReplicaKeyNames(r, "n2"))...)
	add(v.LegKeyPrefix(r), both(v.LegKeyNames(r))...)
	for _, node := range []string{"n1", "n2"} {
		add(v.HostKeyPrefix(HostNQN(node)), both(v.HostKeyNames(HostNQN(node)))...)
		if !strings.HasPrefix(v.HostKeyPrefix(HostNQN(node)), v.TargetKeyPrefix()) {
			t.Errorf("%q isn't below %q", v.HostKeyPrefix(HostNQN(node)), v.TargetKeyPrefix())
		}
	}
	seen := map[string]bool{}
	for of, names := range below {
		for _, name := range names {
			seen[name] = true
			for prefix := range below {
				if strings.HasPrefix(name, prefix) != (prefix == of) || len(name) > 64 {
					t.Errorf("%q is of %q and has the prefix %q", name, of, prefix)
				}
			}
		}
	}
	if len(seen) != 10 {
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
	if _, _, err := new(Volume).HostKeys(Secret{}, HostNQN("n1")); err == nil {
		t.Error("an empty one gives keys")
	}
}

func TestKeysAreNamesAndStayTheVolumes(t *testing.T) {
	for parameter, of := range map[string]func(Parameters) string{
		ParamReplicaKey: func(p Parameters) string { return p.ReplicaKey }, ParamHostKey: func(p Parameters) string { return p.HostKey },
	} {
		p, err := ParseParameters(map[string]string{parameter: "2026-11"})
		if err != nil || of(p) != "2026-11" {
			t.Fatalf("%s: %+v, %v", parameter, p, err)
		}
		q, _ := ParseParameters(nil)
		if p.Equal(q) {
			t.Errorf("with and without %s are the same volume", parameter)
		}
		if _, err := p.Modified(map[string]string{parameter: "other"}); err == nil {
			t.Errorf("%s may change", parameter)
		}
		for _, bad := range []string{"", "a/b", "a b"} {
			if _, err := ParseParameters(map[string]string{parameter: bad}); err == nil {
				t.Errorf("%s %q is taken", parameter, bad)
			}
		}
	}
}
