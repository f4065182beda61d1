package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/holdfast-csi/holdfast/console/bundle"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/storetest"
)

// marks makes secrets that can be found again.
type marks struct{ n int }

func (m *marks) next() string {
	m.n++
	return fmt.Sprintf("S3cr3t%04dxyzzy", m.n)
}

const word = "xyzzy"

// forms are the forms in which logs and messages have a secret in them.
func (m *marks) forms() []string {
	return []string{
		`I1123 01:02:03.000000 1 stage.go:12] "Open" volumeID="hf-1" encryptionPassphrase="` + m.next() + `" node="n1"`,
		`request: {"secrets":{"encryptionPassphrase":"` + m.next() + `"},"volume_id":"hf-1"}`,
		`payload="{\"psk\":\"` + m.next() + `\",\"dhchap_key\":\"` + m.next() + `\",\"key\":\"` + m.next() + `\"}"`,
		`Authorization: Bearer ` + m.next(),
		`Authorization: Basic ` + m.next() + `==`,
		`GET https://admin:` + m.next() + `@10.0.0.1/api`,
		`GET https://` + m.next() + `@10.0.0.1/api`,
		`token is eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0` + m.next() + `.c2ln` + m.next(),
		`connect with dhchap_secret=DHHC-1:00:` + m.next() + `: and key NVMeTLSkey-1:01:` + m.next() + `:`,
		`args --password ` + m.next() + ` --token=` + m.next(),
		`password: "` + m.next() + ` and ` + m.next() + `"`,
		"-----BEGIN EC PRIVATE KEY-----\n" + m.next() + "\n" + m.next() + "\n-----END EC PRIVATE KEY----- and after it",
		`tls="-----BEGIN PRIVATE KEY-----\n` + m.next() + `\n-----END PRIVATE KEY-----\n" after`,
		`data: {'api-key': '` + m.next() + `', client_secret: ` + m.next() + `}`,
	}
}

func (m *marks) text() string { return strings.Join(m.forms(), "\n") + "\n" }

// meta is metadata with secrets in all that a person or a program may put there.
func (m *marks) meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name, Labels: map[string]string{"app.kubernetes.io/name": "holdfast", "label": m.next()},
		Annotations: map[string]string{"kubectl.kubernetes.io/last-applied-configuration": m.next(), "note": m.text()},
	}
}

// objects are an object of every kind that is collected, or lies beside those that are, with secrets wherever one can be.
func objects(t *testing.T, m *marks) []client.Object {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: m.meta("holdfast", "holdfast-node-1")}
	pod.Spec.Containers = []corev1.Container{{
		Name: "holdfast", Image: "holdfast:1", Args: []string{"--password=" + m.next(), m.next()}, Command: []string{m.next()},
		Env: []corev1.EnvVar{{Name: "PASSPHRASE", Value: m.next()}, {Name: "HARMLESS", Value: m.next()}},
	}}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: "holdfast", Image: "holdfast:1", RestartCount: 2,
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 7, Reason: "Error", Message: m.text()}},
	}}
	stranger := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "holdfast", Name: "stranger"}}
	stranger.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: m.next()}}
	event := &corev1.Event{ObjectMeta: m.meta("holdfast", "event"), Message: m.text(), Reason: "Tested", Type: "Warning", InvolvedObject: corev1.ObjectReference{Namespace: "holdfast", Kind: "Pod", Name: "holdfast-node-1"}}
	secret := &corev1.Secret{ObjectMeta: m.meta("holdfast", "holdfast-client-tls"), Data: map[string][]byte{"tls.key": []byte(m.next())}, StringData: map[string]string{"a": m.next()}}
	config := &corev1.ConfigMap{ObjectMeta: m.meta("holdfast", "holdfast-config"), Data: map[string]string{"config.yaml": m.next()}}
	node := &v1alpha1.SPDKNode{ObjectMeta: m.meta("", "n1")}
	node.Spec.Labels = map[string]string{"password": m.next()}
	node.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: "False", Reason: "Silent", Message: m.forms()[2]}}
	host := &v1alpha1.Host{ObjectMeta: m.meta("", "worker-1"), Spec: v1alpha1.HostSpec{MachineID: "1"}}
	return []client.Object{pod, stranger, event, secret, config, node, host}
}

// files returns a bundle's files by their names within its folder.
func files(t *testing.T, archive io.Reader) map[string]string {
	t.Helper()
	unzipped, err := gzip.NewReader(archive)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for r := tar.NewReader(unzipped); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(header.Name, "/")
		found[name] = string(text)
	}
}

func TestBundleHasEverythingButSecrets(t *testing.T) {
	m := &marks{}
	c := fake.NewClientBuilder().WithScheme(kube.Scheme()).WithStatusSubresource(&v1alpha1.Volume{}).WithObjects(objects(t, m)...).Build()
	v := storetest.Volume("pvc-1")
	if err := kube.New(c).Create(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	var o v1alpha1.Volume
	if err := c.Get(t.Context(), client.ObjectKey{Name: v.ID}, &o); err != nil {
		t.Fatal(err)
	}
	meta := m.meta("", v.ID)
	o.Labels, o.Annotations = meta.Labels, meta.Annotations
	if err := c.Update(t.Context(), &o); err != nil {
		t.Fatal(err)
	}
	logs := func(_ context.Context, _, pod, container string, previous bool) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(fmt.Sprintf("%s %s %v begins\n%s%s\nends", pod, container, previous, m.text(), strings.Repeat("x", 1<<20)))), nil
	}
	var archive bytes.Buffer
	source := bundle.Source{Client: c, Logs: logs, Namespace: "holdfast", Now: time.Unix(0, 0), Texts: map[string]string{"status.txt": m.text()}}
	missing, err := source.Write(t.Context(), &archive)
	if err != nil || len(missing) > 0 {
		t.Fatalf("it lacks %v, %v", missing, err)
	}
	found := files(t, &archive)
	for name, text := range found {
		for line := range strings.Lines(text) {
			if strings.Contains(line, word) {
				t.Errorf("%s has a secret: %.300s", name, line)
			}
		}
	}
	for name, want := range map[string]string{
		"volumes.json": v.ID, "snapshots.json": "null", "hosts.json": "worker-1", "spdknodes.json": `"n1"`, "events.txt": "Pod/holdfast/holdfast-node-1",
		"pods.json": `"exitCode": 7`, "status.txt": "(hidden)", "errors.txt": "\n",
		"logs/holdfast-node-1/holdfast.log": "\nends", "logs/holdfast-node-1/holdfast.previous.log": "holdfast-node-1 holdfast true begins",
	} {
		if text, ok := found[name]; !ok || !strings.Contains(text, want) {
			t.Errorf("no %q in %s: %.500s", want, name, text)
		}
	}
	for _, kept := range []string{`volumeID="hf-1"`, `node="n1"`, "and after it", `"volume_id":"hf-1"`, "stage.go:12"} {
		if !strings.Contains(found["logs/holdfast-node-1/holdfast.log"], kept) {
			t.Errorf("the log lacks %q, which is no secret: %.3000s", kept, found["logs/holdfast-node-1/holdfast.log"])
		}
	}
	if m.n < 100 {
		t.Errorf("only %d secrets were put", m.n)
	}
}

func TestWhatCannotBeCollectedIsToldAndTheRestIsThere(t *testing.T) {
	c := fake.NewClientBuilder().WithScheme(kube.Scheme()).WithObjects(objects(t, &marks{})...).Build()
	logs := func(context.Context, string, string, string, bool) (io.ReadCloser, error) {
		return nil, errors.New("forbidden: password=" + word)
	}
	var archive bytes.Buffer
	missing, err := bundle.Source{Client: c, Logs: logs, Namespace: "holdfast", Now: time.Unix(0, 0)}.Write(t.Context(), &archive)
	if err != nil || len(missing) != 2 || !strings.Contains(missing[0], "logs/holdfast-node-1/holdfast.log: forbidden: password=(hidden)") {
		t.Fatalf("it lacks %q, %v", missing, err)
	}
	if found := files(t, &archive); !strings.Contains(found["errors.txt"], missing[1]) || !strings.Contains(found["pods.json"], "holdfast-node-1") {
		t.Errorf("the bundle has %v", found)
	}
}
