package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/show"
)

// server is the API server, as the flags say. It implements console.Access.
type server struct {
	kubeconfig, context, namespace, driverNamespace string
	kubectl                                         runner
}

// AddFlags implements console.Access: the flags are those of the plugin.
func (s *server) AddFlags(*cobra.Command) {}

// connect returns how the API server is reached, and the namespace of claims that are named without one.
func (s *server) connect() (*rest.Config, client.Client, string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = s.kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: s.context}
	overrides.Context.Namespace = s.namespace
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	config, err := kube.ConfigOf(loader)
	if err != nil {
		return nil, nil, "", err
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, nil, "", fmt.Errorf("find the namespace: %w", err)
	}
	c, err := kube.NewClient(config)
	return config, c, namespace, err
}

// Open implements console.Access.
func (s *server) Open(ctx context.Context) (o *operator.Operator, done func(), err error) {
	_, c, namespace, err := s.connect()
	if err != nil {
		return nil, nil, err
	}
	reports := show.Reports{Client: c, Namespace: s.driverNamespace, Clock: clock.RealClock{}}
	if o, err = operator.NewByReport(ctx, kube.New(c), reports, clock.RealClock{}); err != nil {
		return nil, nil, err
	}
	return o.WithClaims(kube.Claims{Client: c, Namespace: namespace}), func() {}, nil
}
