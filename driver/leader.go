package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube"
)

// Times of the leader election, those of Kubernetes' own components.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// ErrLeadershipLost says that another controller may act from now on, so that this one has ended.
var ErrLeadershipLost = errors.New("the lease of the leading controller could not be renewed in time; started again, this process waits for its turn")

// namespaceFile is where a pod finds its namespace.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// LeaseNamespace returns the namespace for the lease: the one given, or that of this pod.
func LeaseNamespace(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	name, err := os.ReadFile(namespaceFile)
	if err != nil {
		return "", fmt.Errorf("find the namespace for the controller's lease: %w; outside a pod say --leader-election-namespace", err)
	}
	return strings.TrimSpace(string(name)), nil
}

// Lead waits until this process holds the lease in the namespace, and calls run, whose context ends with ctx and when the lease is lost. The
// lease is let go of after run has returned. An end of ctx while it waits is no error.
func Lead(ctx context.Context, c *rest.Config, namespace string, run func(context.Context) error) error {
	client, err := coordinationv1.NewForConfig(c)
	if err != nil {
		return fmt.Errorf("elect the leading controller: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("elect the leading controller: %w", err)
	}
	leads := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: namespace, Name: kube.LeaseName}, Client: client,
			LockConfig: resourcelock.ResourceLockConfig{Identity: host + "_" + uuid.NewString()},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, ReleaseOnCancel: true, Name: kube.LeaseName,
		Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(ctx context.Context) { leads <- ctx }, OnStoppedLeading: func() {}},
	})
	if err != nil {
		return fmt.Errorf("elect the leading controller: %w", err)
	}
	electing, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { elector.Run(electing) })
	defer wg.Wait()
	defer stop()
	klog.FromContext(ctx).Info("Waiting to be the leading controller", "namespace", namespace, "lease", kube.LeaseName)
	select {
	case <-ctx.Done():
		return nil
	case lease := <-leads:
		return lead(ctx, lease, run)
	}
}

func lead(ctx, lease context.Context, run func(context.Context) error) error {
	klog.FromContext(ctx).Info("This is the leading controller")
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(lease, cancel)()
	err := run(running)
	if lease.Err() != nil {
		return errors.Join(ErrLeadershipLost, err)
	}
	return err
}
