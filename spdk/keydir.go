package spdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
)

// KeyDir is a directory for the keys of an SPDK process, on the machine where that runs: best in memory, so that no disk has keys, and
// open to nobody else. It is made if need be.
type KeyDir struct {
	// Path is the directory's, absolute.
	Path string
	// Socket is the process's, whose owner has to own the keys (module/keyring/file/keyring.c, keyring_file_check_path).
	Socket string
}

// keyFileName is what a key may be called.
var keyFileName = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// ErrNoKeyDir says that there is no directory for keys.
var ErrNoKeyDir = errors.New("there is no directory for keys of the SPDK process: give the gateway --key-dir, or the node of the configuration keyDir")

// Translate makes a call of SPDK's of one of the two that it doesn't have, after it has done what SPDK can't; any other stays as it is. No
// error has a key in it.
func (d KeyDir) Translate(method string, params json.RawMessage) (string, json.RawMessage, error) {
	if method != MethodPutKey && method != MethodDropKey {
		return method, params, nil
	}
	var p PutKeyParams
	if err := json.Unmarshal(params, &p); err != nil || !keyFileName.MatchString(p.Name) {
		return "", nil, fmt.Errorf("%s: a name of 1 to 64 lower-case letters, digits and dashes is wanted", method)
	}
	if d.Path == "" {
		return "", nil, ErrNoKeyDir
	}
	path := filepath.Join(d.Path, p.Name)
	spdkMethod, spdkParams, act := "keyring_file_add_key", map[string]string{"name": p.Name, "path": path}, func() error { return d.write(path, p.Key) }
	if method == MethodDropKey {
		spdkMethod, spdkParams, act = "keyring_file_remove_key", map[string]string{"name": p.Name}, func() error { return removeFile(path) }
	}
	if err := act(); err != nil {
		return "", nil, fmt.Errorf("%s %s: %w", method, p.Name, err)
	}
	body, err := json.Marshal(spdkParams)
	return spdkMethod, body, err
}

// removeFile removes a file that may be gone already.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// write puts a whole file in place of what is there.
func (d KeyDir) write(path, text string) error {
	if err := os.MkdirAll(d.Path, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(d.Path, ".key-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // unless it was renamed
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	socket, err := os.Stat(d.Socket)
	if err != nil {
		return fmt.Errorf("find out who SPDK runs as: %w", err)
	}
	if owner, ok := socket.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != os.Geteuid() {
		if err := os.Chown(f.Name(), int(owner.Uid), -1); err != nil {
			return fmt.Errorf("give it to the user that SPDK runs as: %w", err)
		}
	}
	return os.Rename(f.Name(), path)
}

// Caller returns a Caller that has the two calls besides those of c.
func (d KeyDir) Caller(c Caller) Caller { return keyDirCaller{d, c} }

type keyDirCaller struct {
	dir  KeyDir
	next Caller
}

// Call implements Caller.
func (c keyDirCaller) Call(ctx context.Context, method string, params, result any) error {
	if method != MethodPutKey && method != MethodDropKey {
		return c.next.Call(ctx, method, params, result)
	}
	body, err := json.Marshal(params)
	if err != nil {
		return fmt.Errorf("encode %s: %w", method, err)
	}
	translated, its, err := c.dir.Translate(method, body)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return c.next.Call(ctx, translated, its, result)
}
