//go:build pin

package pin

import (
	_ "github.com/container-storage-interface/spec/lib/go/csi"
	_ "github.com/go-logr/logr"
	_ "github.com/google/uuid"
	_ "github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	_ "github.com/spf13/cobra"
	_ "go.etcd.io/bbolt"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
	_ "google.golang.org/grpc"
	_ "k8s.io/klog/v2"
	_ "k8s.io/mount-utils"
	_ "k8s.io/utils/exec"
	_ "k8s.io/utils/clock"
	_ "sigs.k8s.io/yaml"
	_ "golang.org/x/time/rate"
)
