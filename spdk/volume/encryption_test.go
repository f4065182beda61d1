package volume

import "testing"

func TestEncryptionIsComparedAndTakesItsHeaderFromTheSize(t *testing.T) {
	parse := func(encryption string) Parameters {
		t.Helper()
		p, err := ParseParameters(map[string]string{ParamEncryption: encryption})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	none, luks := parse("none"), parse("luks2")
	old := none
	old.Encryption = "" // a record from before there was any
	if none.Equal(luks) || !none.Equal(old) || !old.Equal(none) || !luks.Equal(parse("luks2")) || old.Encrypted() || !luks.Encrypted() {
		t.Error("encryption is not compared")
	}
	if _, err := ParseParameters(map[string]string{ParamEncryption: "luks1"}); err == nil {
		t.Error("encryption \"luks1\" is accepted")
	}
	for p, want := range map[*Parameters]int64{&none: 64 << 20, &old: 64 << 20, &luks: 48 << 20} {
		v, s := Volume{SizeBytes: 64 << 20, Parameters: *p}, Snapshot{SizeBytes: 64 << 20, Encryption: p.Encryption}
		if v.CapacityBytes() != want || s.CapacityBytes() != want {
			t.Errorf("%q: a volume offers %d bytes, a snapshot %d", p.Encryption, v.CapacityBytes(), s.CapacityBytes())
		}
	}
}
