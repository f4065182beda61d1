package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// staged is what this node has attached of a volume, or is about to. It is written before the volume is attached and removed
// when it is known to be detached.
type staged struct {
	VolumeID string    `json:"volumeID"`
	NQN      string    `json:"nqn"`
	UUID     uuid.UUID `json:"uuid"`
	// Path is the staging target path, Block says that nothing is mounted there.
	Path  string `json:"path"`
	Block bool   `json:"block,omitempty"`
	// Encrypted: what is used is not the device, but what it is open as.
	Encrypted bool `json:"encrypted,omitempty"`
	// Targets are the paths where the volume is published.
	Targets []string `json:"targets,omitempty"`
}

func (st *staged) addTarget(path string) bool {
	if slices.Contains(st.Targets, path) {
		return false
	}
	st.Targets = append(st.Targets, path)
	return true
}

func (st *staged) removeTarget(path string) {
	st.Targets = slices.DeleteFunc(st.Targets, func(t string) bool { return t == path })
}

// stateDir holds a file a staged volume, named by its ID.
type stateDir string

func openStateDir(path string) (stateDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", fmt.Errorf("make the directory for the node's state: %w", err)
	}
	return stateDir(path), nil
}

func (d stateDir) file(id string) string { return filepath.Join(string(d), id+".json") }

// load returns what is staged of a volume; nil if nothing is.
func (d stateDir) load(id string) (*staged, error) {
	if !volume.ValidID(id) {
		return nil, nil
	}
	body, err := os.ReadFile(d.file(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the node's state: %w", err)
	}
	st := &staged{}
	if err := json.Unmarshal(body, st); err != nil {
		return nil, fmt.Errorf("the node's state in %s can't be decoded: %w; remove the file when the volume is neither mounted nor connected here", d.file(id), err)
	}
	return st, nil
}

// save writes the file as a whole or not at all.
func (d stateDir) save(st *staged) error {
	body, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("encode the node's state: %w", err)
	}
	next := d.file(st.VolumeID) + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write the node's state: %w", err)
	}
	_, err = f.Write(body)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write the node's state: %w", err)
	}
	if err := os.Rename(next, d.file(st.VolumeID)); err != nil {
		return fmt.Errorf("write the node's state: %w", err)
	}
	return nil
}

// ids lists the volumes that have a file.
func (d stateDir) ids() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, fmt.Errorf("list the node's state: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok && volume.ValidID(id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (d stateDir) remove(id string) error {
	if err := os.Remove(d.file(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the node's state: %w", err)
	}
	return nil
}
