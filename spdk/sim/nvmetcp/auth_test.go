package nvmetcp

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp/dhchap"
)

// secret is a key of 48 bytes of that value, transformed with SHA-384.
func secret(value byte) KeySource {
	return func() (string, error) {
		key := bytes.Repeat([]byte{value}, 48)
		return "DHHC-1:02:" + base64.StdEncoding.EncodeToString(binary.LittleEndian.AppendUint32(key, crc32.ChecksumIEEE(key))) + ":", nil
	}
}

func TestHostsAuthenticateWithEveryHashAndGroup(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	f.sub.SetHostKeys(testHost, &HostKeys{Host: secret(1), Controller: secret(2)})
	for _, both := range []bool{false, true} {
		for _, h := range dhchap.Hashes {
			for _, g := range dhchap.Groups {
				f.tgt.SetAuthAlgorithms(AuthAlgorithms{Hashes: []dhchap.Hash{h}, Groups: []dhchap.Group{g}})
				cfg := f.hostConfig()
				cfg.IOQueues, cfg.Auth = 1, &HostAuth{Key: secret(1)}
				if both {
					cfg.Auth.ControllerKey = secret(2)
				}
				c := f.connect(cfg)
				f.must(c.Read(patient(t), 1, make([]byte, 512), 0))
				f.must(c.Close())
			}
		}
	}
}

func TestWhoDoesNotProveItselfIsKeptOut(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	f.sub.SetHostKeys(testHost, &HostKeys{Host: secret(1), Controller: secret(2)})
	f.tgt.SetAuthAlgorithms(AuthAlgorithms{Hashes: []dhchap.Hash{dhchap.SHA384}})
	for name, tc := range map[string]struct {
		auth *HostAuth
		want error
	}{
		"no key":                        {nil, ErrAuthKeyMissing},
		"another key":                   {&HostAuth{Key: secret(3)}, ErrAuthFailed},
		"the controller's key":          {&HostAuth{Key: secret(2)}, ErrAuthFailed},
		"another key of the controller": {&HostAuth{Key: secret(1), ControllerKey: secret(3)}, ErrAuthFailed},
		"no common hash":                {&HostAuth{Key: secret(1), Algorithms: AuthAlgorithms{Hashes: []dhchap.Hash{dhchap.SHA512}}}, ErrAuthFailed},
		"a key that can't be read":      {&HostAuth{Key: func() (string, error) { return "", errNoKey }}, errNoKey},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := f.hostConfig()
			cfg.Auth = tc.auth
			if _, err := Connect(patient(t), cfg); !errors.Is(err, tc.want) {
				t.Errorf("got %v", err)
			}
			awaitControllers(t, f.sub, 0)
		})
	}
}

// A controller that has no key can't prove itself, whether it asked for authentication or not.
func TestHostDoesNotTrustAControllerWithoutAKey(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	cfg := f.hostConfig()
	cfg.Auth = &HostAuth{Key: secret(1), ControllerKey: secret(2)}
	for _, keys := range []*HostKeys{nil, {Host: secret(1)}} {
		f.sub.SetHostKeys(testHost, keys)
		if _, err := Connect(patient(t), cfg); !errors.Is(err, ErrAuthFailed) {
			t.Errorf("keys %v: got %v", keys, err)
		}
	}
}

func TestNothingButAuthenticationIsServedBeforeIt(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	f.sub.SetHostKeys(testHost, &HostKeys{Host: secret(1)})
	cfg := f.hostConfig().withDefaults()
	ctx, cancel := context.WithCancelCause(t.Context())
	c := &Controller{cfg: cfg, log: cfg.Logger, ctx: ctx, cancel: cancel, done: make(chan struct{})}
	defer c.drop(errClosed)
	var err error
	c.admin, err = dialQueue(patient(t), &cfg, 0, hostAdminDepth, cancel)
	f.must(err)
	_, err = c.fabricsConnect(patient(t), c.admin, hostAdminDepth, 0xffff)
	if !errors.Is(err, ErrAuthKeyMissing) {
		t.Fatal(err)
	}
	_, err = c.getProperty(patient(t), propCAP, true)
	wantStatus(t, err, SCTCommand, SCAuthRequired)
	_, err = c.adminCommand(patient(t), opKeepAlive, 0, nil)
	wantStatus(t, err, SCTCommand, SCAuthRequired)
}

func TestHostThatNeverAuthenticatesIsDisconnected(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	f.sub.SetHostKeys(testHost, &HostKeys{Host: secret(1)})
	cfg := f.hostConfig().withDefaults()
	cfg.KATO = 200 * time.Millisecond
	ctx, cancel := context.WithCancelCause(t.Context())
	c := &Controller{cfg: cfg, log: cfg.Logger, ctx: ctx, cancel: cancel, done: make(chan struct{})}
	defer c.drop(errClosed)
	var err error
	c.admin, err = dialQueue(patient(t), &cfg, 0, hostAdminDepth, cancel)
	f.must(err)
	if _, err = c.fabricsConnect(patient(t), c.admin, hostAdminDepth, 0xffff); !errors.Is(err, ErrAuthKeyMissing) {
		t.Fatal(err)
	}
	select {
	case <-ctx.Done():
	case <-patient(t).Done():
		t.Fatal("it stays connected")
	}
}

func TestNewKeysHoldForNewAuthenticationsAndDisturbNoOther(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	f.sub.SetHostKeys(testHost, &HostKeys{Host: secret(1)})
	cfg := f.hostConfig()
	cfg.Auth = &HostAuth{Key: secret(1)}
	c := f.connect(cfg)
	f.sub.SetHostKeys(testHost, &HostKeys{Host: secret(2)})
	f.must(c.Read(patient(t), 1, make([]byte, 512), 0))
	if _, err := Connect(patient(t), cfg); !errors.Is(err, ErrAuthFailed) {
		t.Errorf("with the old key: %v", err)
	}
	c.SetAuth(&HostAuth{Key: secret(2)})
	f.must(c.Authenticate(patient(t)))
	f.must(c.Read(patient(t), 1, make([]byte, 512), 0))
	c.SetAuth(&HostAuth{Key: secret(1)})
	if err := c.Authenticate(patient(t)); !errors.Is(err, ErrAuthFailed) {
		t.Errorf("authenticated again with the old key: %v", err)
	}
	ended(t, c) // a failure ends it, though it was not asked for
}
