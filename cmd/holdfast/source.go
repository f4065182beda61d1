package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/console"
	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/spdk/operator"
)

// addSource adds the flags that say where the configuration, the records and the SPDK nodes are.
func addSource(flags *pflag.FlagSet, s *driver.Source, store, storeUsage string) {
	flags.StringVar(&s.Config, "config", "/etc/holdfast/config.yaml", "configuration file")
	flags.StringVar(&s.Store, "store", store, storeUsage)
	flags.StringVar(&s.SPDKNodes, "spdk-nodes", driver.NodesFromFile, "where the SPDK nodes are named: file, the configuration file, or kube, the SPDKNode resources")
	flags.StringVar(&s.Kubeconfig, "kubeconfig", "", "file that says how the API server is reached; default is as kubectl finds it, or the pod's service account")
}

// clusterFlags say where an operator's command finds the cluster and its records. It implements console.Access.
type clusterFlags struct{ driver.Source }

// commands are an operator's.
var commands console.Cluster = func() console.Access { return &clusterFlags{} }

// AddFlags implements console.Access.
func (f *clusterFlags) AddFlags(cmd *cobra.Command) {
	addSource(cmd.Flags(), &f.Source, "", "where the records are: kube, unix:///path or tls://host:port that a controller serves, or bolt:///path while none runs (required)")
	if err := cmd.MarkFlagRequired("store"); err != nil {
		panic(err) // the flag was defined before
	}
}

// Open implements console.Access.
func (f *clusterFlags) Open(ctx context.Context) (o *operator.Operator, done func(), err error) {
	opened, err := f.Source.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	return operator.New(opened.Store, opened.Cluster, clock.RealClock{}), opened.Close, nil
}
