//go:build e2e

package driver

import (
	"context"
	"path"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// The CO's conformance suite against the node service on a real kernel.
func TestSanity(t *testing.T) {
	s := run(t)
	config := sanity.NewTestConfig()
	config.Address = "passthrough:///guest"
	config.DialOptions = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), s.NodeDialer()}
	config.ControllerAddress = s.ControllerEndpoint()
	config.TestVolumeSize = 64 << 20
	config.StagingPath, config.TargetPath = "/mnt/sanity-staging", "/mnt/sanity-target"
	config.CreateStagingDir = func(p string) (string, error) { return p, s.try("mkdir -p " + p) }
	config.CreateTargetDir = func(p string) (string, error) { return path.Join(p, "target"), s.try("mkdir -p " + p) }
	config.RemoveStagingPath = func(p string) error { return s.try("rm -rf " + p) }
	config.RemoveTargetPath = func(p string) error { return s.try("rm -rf " + path.Dir(p)) }
	config.CheckPath = s.checkPath
	sanity.Test(t, config)
	s.wantNothingLeft(t)
}

// try runs a shell command in the guest.
func (s *suite) try(command string) error {
	_, err := s.Guest(context.Background(), command)
	return err
}

func (s *suite) checkPath(p string) (sanity.PathKind, error) {
	out, err := s.Guest(context.Background(), "if [ -d '"+p+"' ]; then echo directory; elif [ -f '"+p+"' ]; then echo file; elif [ -e '"+p+"' ]; then echo other; else echo not_found; fi")
	if err != nil {
		return "", err
	}
	return sanity.IsPathKind(out)
}
