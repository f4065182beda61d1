package cluster

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// image is a container image: a tar file of programs, or one program.
type image struct {
	names      []string
	base       string // file of a layer, or ""
	program    string // static program on this machine, or ""
	entrypoint []string
}

// programPath is where an image has its program.
const programPath = "/usr/local/bin/"

// layer is a tar file that becomes a part of an image.
type layer struct {
	name   string // in the archive
	body   []byte
	digest string
}

func newLayer(body []byte) layer {
	sum := sha256.Sum256(body)
	digest := hex.EncodeToString(sum[:])
	return layer{name: digest + "/layer.tar", body: body, digest: "sha256:" + digest}
}

// layers reads what the image is made of.
func (i image) layers(programName string) ([]layer, error) {
	var layers []layer
	if i.base != "" {
		body, err := os.ReadFile(i.base)
		if err != nil {
			return nil, err
		}
		layers = append(layers, newLayer(body))
	}
	if i.program == "" {
		return layers, nil
	}
	program, err := os.ReadFile(i.program)
	if err != nil {
		return nil, err
	}
	var body bytes.Buffer
	t := tar.NewWriter(&body)
	if err := addFile(t, (programPath + programName)[1:], 0o755, program); err != nil {
		return nil, err
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	return append(layers, newLayer(body.Bytes())), nil
}

// write writes the image as `docker save` does (image-spec v1.2 of the Docker project), which containerd imports.
func (i image) write(w io.Writer, programName string) error {
	layers, err := i.layers(programName)
	if err != nil {
		return fmt.Errorf("make image %v: %w", i.names, err)
	}
	var files, digests []string
	for _, l := range layers {
		files, digests = append(files, l.name), append(digests, l.digest)
	}
	entrypoint := i.entrypoint
	if i.program != "" {
		entrypoint = []string{programPath + programName}
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Entrypoint": entrypoint, "Env": []string{"PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": digests},
	})
	if err != nil {
		return err
	}
	configName := newLayer(config).digest[len("sha256:"):] + ".json"
	manifest, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": i.names, "Layers": files}})
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	for _, l := range append(layers, layer{name: configName, body: config}, layer{name: "manifest.json", body: manifest}) {
		if err := addFile(t, l.name, 0o644, l.body); err != nil {
			return err
		}
	}
	return t.Close()
}

func addFile(t *tar.Writer, name string, mode int64, body []byte) error {
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(body)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err := t.Write(body)
	return err
}
