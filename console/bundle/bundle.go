// Package bundle owns the support bundle: what of a cluster is collected for whoever helps to find a fault, and that no secret is in it.
//
// Objects are copied by naming what is taken of them: no annotations, no environments, no arguments. Nothing asks for a Secret. Whatever goes into the
// bundle, logs and messages above all, passes through redact.
package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Logs reads the log of a container of a pod, or that of the one before it.
type Logs func(ctx context.Context, namespace, pod, container string, previous bool) (io.ReadCloser, error)

// Source is where a bundle is from.
type Source struct {
	Client client.Client
	Logs   Logs
	// Namespace is that of the driver's pods.
	Namespace string
	// Now is the moment of the bundle; it names its folder.
	Now time.Time
	// Texts are files that are made elsewhere, by name.
	Texts map[string]string
}

// Write writes a tar archive, compressed by gzip. What can't be collected is in its file errors.txt, and told by the result; only what can't be
// written is an error.
func (s Source) Write(ctx context.Context, to io.Writer) (missing []string, err error) {
	zipped := gzip.NewWriter(to)
	w := &writer{tar: tar.NewWriter(zipped), folder: "holdfast-support-" + s.Now.UTC().Format("20060102-150405"), now: s.Now}
	for _, collect := range []func(context.Context, *writer){s.texts, s.records, s.events, s.pods} {
		collect(ctx, w)
	}
	w.text("errors.txt", strings.Join(w.missing, "\n")+"\n")
	return w.missing, errors.Join(w.err, w.tar.Close(), zipped.Close())
}

func (s Source) texts(_ context.Context, w *writer) {
	for name, text := range s.Texts {
		w.text(name, text)
	}
}

// writer writes the files of a bundle. After an error it writes no more.
type writer struct {
	tar     *tar.Writer
	folder  string
	now     time.Time
	missing []string
	err     error
}

// lacks notes what can't be collected.
func (w *writer) lacks(what string, err error) {
	var inBlock bool
	w.missing = append(w.missing, clean(strings.ReplaceAll(fmt.Sprintf("%s: %v", what, err), "\n", " "), &inBlock))
}

// object writes a value as JSON.
func (w *writer) object(name string, v any) {
	text, err := json.Marshal(v)
	var plain any
	if err == nil {
		err = json.Unmarshal(text, &plain)
	}
	if err == nil {
		text, err = json.MarshalIndent(scrub(plain), "", "  ")
	}
	if err != nil {
		w.lacks(name, err)
		return
	}
	w.text(name, string(text))
}

// scrub returns a decoded value whose texts, which may have several lines, are without what may be a secret.
func scrub(v any) any {
	switch v := v.(type) {
	case string:
		var inBlock bool
		lines := strings.Split(v, "\n")
		for i, line := range lines {
			lines[i] = clean(line, &inBlock)
		}
		return strings.Join(lines, "\n")
	case []any:
		for i := range v {
			v[i] = scrub(v[i])
		}
	case map[string]any:
		for name, member := range v {
			v[name] = scrub(member)
		}
	}
	return v
}

func (w *writer) text(name, text string) {
	if err := w.file(name, strings.NewReader(text)); err != nil {
		w.lacks(name, err)
	}
}

// file writes what can be read, redacted, and returns why it could not be read to its end.
func (w *writer) file(name string, from io.Reader) error {
	var text bytes.Buffer
	readErr := redact(&text, from)
	header := &tar.Header{Name: path.Join(w.folder, name), Mode: 0o600, Size: int64(text.Len()), ModTime: w.now, Typeflag: tar.TypeReg}
	if w.err == nil {
		w.err = w.tar.WriteHeader(header)
	}
	if w.err == nil {
		_, w.err = w.tar.Write(text.Bytes())
	}
	return readErr
}
