package chart

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// binaries is where `make kube-binaries` puts etcd, kube-apiserver and kubectl.
const binaries = root + "/.cache/kubernetes"

// apiServer is a real API server of this test, without kubelet, controllers or scheduler.
type apiServer struct{ kubectl, address, dir string }

// startAPIServer starts etcd and an API server that end with the test.
func startAPIServer(t *testing.T) apiServer {
	t.Helper()
	bin, err := filepath.Abs(binaries)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kubectl"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			t.Skipf("%v; `make kube-binaries` builds it", err)
		}
	}
	dir := t.TempDir()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{
		"sa.key":     string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
		"tokens.csv": `token,admin,admin,"system:masters"` + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	etcd, peer, secure := freePort(t), freePort(t), freePort(t)
	start(t, dir, filepath.Join(bin, "etcd"), "--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", "http://"+etcd, "--advertise-client-urls", "http://"+etcd,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer, "--initial-cluster", "default=http://"+peer)
	_, port, _ := strings.Cut(secure, ":")
	start(t, dir, filepath.Join(bin, "kube-apiserver"), "--etcd-servers", "http://"+etcd, "--bind-address", "127.0.0.1", "--secure-port", port,
		"--advertise-address", "192.0.2.1", "--endpoint-reconciler-type", "none", // what serves nobody else has no address
		"--cert-dir", filepath.Join(dir, "certs"), "--service-cluster-ip-range", "10.96.0.0/16", "--authorization-mode", "RBAC",
		"--token-auth-file", filepath.Join(dir, "tokens.csv"), "--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", filepath.Join(dir, "sa.key"), "--service-account-signing-key-file", filepath.Join(dir, "sa.key"))
	return apiServer{kubectl: filepath.Join(bin, "kubectl"), address: "https://" + secure, dir: dir}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs a program until the test ends; a test that failed shows the end of what it wrote.
func start(t *testing.T, dir, path string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, filepath.Base(path)+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed: that is its error
		if body, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s: ...%s", filepath.Base(path), body[max(0, len(body)-2000):])
		}
		_ = log.Close()
	})
}

// run calls kubectl.
func (s apiServer) run(ctx context.Context, args ...string) (string, error) {
	args = append([]string{"--server", s.address, "--insecure-skip-tls-verify", "--token", "token", "--cache-dir", filepath.Join(s.dir, "cache"), "--kubeconfig", "/dev/null"}, args...)
	out, err := exec.CommandContext(ctx, s.kubectl, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// ready waits until everything that the API server makes of its own is there, the priority classes too.
func (s apiServer) ready(ctx context.Context, t *testing.T) {
	t.Helper()
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for {
		_, err := s.run(ctx, "get", "priorityclass", "system-node-critical", "system-cluster-critical")
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the API server doesn't get ready: %v", err)
		case <-again.C:
		}
	}
}

// TestAPIServerTakesWhatTheChartRenders makes every object on a real API server, which knows more rules than the types do. Objects of
// others, whose CRDs aren't there, are left out.
func TestAPIServerTakesWhatTheChartRenders(t *testing.T) {
	s := startAPIServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	s.ready(ctx, t)
	if _, err := s.run(ctx, "create", "-f", root+"/deploy/crds"); err != nil {
		t.Error(err)
	}
	if _, err := s.run(ctx, "apply", "-f", root+"/deploy/manifests/holdfast.yaml"); err != nil {
		t.Error(err)
	}
	streams := map[string]string{}
	for _, name := range cases {
		streams[name] = mustRender(t, readValues(t, name))
	}
	for _, example := range []string{"claim", "spdk-target", "storageclass", "storageclass-encrypted", "volumeattributesclass"} {
		body, err := os.ReadFile(root + "/deploy/examples/" + example + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		streams[example] = string(body)
	}
	for name, stream := range streams {
		heads, _ := decode(t, stream)
		for i, doc := range documents(stream) {
			if builtin(heads[i]) == nil {
				continue
			}
			file := filepath.Join(s.dir, name+strconv.Itoa(i)+".yaml")
			if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.run(ctx, "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", file); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
