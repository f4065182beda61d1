package driver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/go-logr/logr/funcr"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"
)

func TestSecretsOfCallsReachNoLogAndNoError(t *testing.T) {
	const secret = "the passphrase that nobody may see"
	var logged strings.Builder
	ctx := klog.NewContext(t.Context(), funcr.New(func(prefix, args string) { logged.WriteString(prefix + args + "\n") }, funcr.Options{Verbosity: 10}))
	chain := func(method string, req any, handler grpc.UnaryHandler) error {
		info := &grpc.UnaryServerInfo{FullMethod: "/csi.v1.Node/" + method}
		_, err := withLogger(ctx, req, info, func(ctx context.Context, req any) (any, error) {
			return withStatus(ctx, req, info, func(ctx context.Context, req any) (any, error) { return withDeadline(ctx, req, info, handler) })
		})
		return err
	}
	secrets := map[string]string{"encryptionPassphrase": secret}
	failed := chain("NodeStageVolume", &csi.NodeStageVolumeRequest{VolumeId: "hf-1", Secrets: secrets}, func(ctx context.Context, _ any) (any, error) {
		klog.FromContext(ctx).V(5).Info("Under way")
		return nil, fmt.Errorf("stage: %w", errors.New("it can't be"))
	})
	done := chain("NodeExpandVolume", &csi.NodeExpandVolumeRequest{VolumeId: "hf-2", Secrets: secrets}, func(context.Context, any) (any, error) { return nil, nil })
	if failed == nil || done != nil || strings.Contains(failed.Error(), secret) {
		t.Errorf("got %v, %v", failed, done)
	}
	all := logged.String()
	if strings.Contains(all, secret) {
		t.Errorf("logged was %s", all)
	}
	for _, want := range []string{"hf-1", "hf-2", "Under way", "Call failed", "Call done"} {
		if !strings.Contains(all, want) {
			t.Errorf("not logged is %q: %s", want, all)
		}
	}
}
