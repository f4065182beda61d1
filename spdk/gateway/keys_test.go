package gateway

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk"
)

func TestKeysAreWrittenWhereSPDKAloneReadsThemAndForgottenAgain(t *testing.T) {
	ca := newAuthority(t)
	u := newUpstream(t, func(request) string { return `"result":true` })
	dir := filepath.Join(t.TempDir(), "keys")
	c := start(t, ca, u.socket, func(config *Config) { config.KeyDir.Path = dir }).dial(t, ca.client())
	call := func(method string, params any) error { return c.Call(context.Background(), method, params, nil) }
	for _, text := range []string{"DHHC-1:01:one:", "DHHC-1:01:two:"} {
		if err := call(spdk.MethodPutKey, spdk.PutKeyParams{Name: "hf-1", Key: text}); err != nil {
			t.Fatal(err)
		}
		body, err := os.ReadFile(filepath.Join(dir, "hf-1"))
		info, _ := os.Stat(filepath.Join(dir, "hf-1"))
		if err != nil || string(body) != text || info.Mode().Perm() != 0o600 {
			t.Errorf("%q, %v, %v", body, info, err)
		}
	}
	if err := call(spdk.MethodDropKey, spdk.DropKeyParams{Name: "hf-1"}); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	all := strings.Join(u.requests(), "\n")
	if strings.Count(all, `"keyring_file_add_key"`) != 2 || strings.Count(all, `"keyring_file_remove_key"`) != 1 || strings.Contains(all, "DHHC") {
		t.Errorf("SPDK was asked\n%s", all)
	}
}

func TestKeysThatCannotBeKeptAreRefused(t *testing.T) {
	ca := newAuthority(t)
	u := newUpstream(t, methodAsResult)
	dir := t.TempDir()
	without := start(t, ca, u.socket, nil).dial(t, ca.client())
	with := start(t, ca, u.socket, func(config *Config) { config.KeyDir.Path = dir }).dial(t, ca.client())
	for name, tc := range map[string]struct {
		c      *spdk.Client
		method string
		params any
		want   string
	}{
		"no directory":     {without, spdk.MethodPutKey, spdk.PutKeyParams{Name: "a", Key: "s3cr3t"}, "--key-dir"},
		"a path as name":   {with, spdk.MethodPutKey, spdk.PutKeyParams{Name: "../a", Key: "s3cr3t"}, "lower-case letters"},
		"no name":          {with, spdk.MethodDropKey, spdk.DropKeyParams{}, "lower-case letters"},
		"a file elsewhere": {with, "keyring_file_add_key", map[string]string{"name": "a", "path": "/etc/shadow"}, "does not pass"},
	} {
		err := tc.c.Call(context.Background(), tc.method, tc.params, nil)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 || len(u.requests()) > 0 {
		t.Errorf("left are %v, %v; SPDK was asked %v", left, err, u.requests())
	}
}
