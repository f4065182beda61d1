package main

import (
	"github.com/spf13/pflag"

	"github.com/holdfast-csi/holdfast/driver"
)

// addSource adds the flags that say where the configuration, the records and the SPDK nodes are.
func addSource(flags *pflag.FlagSet, s *driver.Source, store, storeUsage string) {
	flags.StringVar(&s.Config, "config", "/etc/holdfast/config.yaml", "configuration file")
	flags.StringVar(&s.Store, "store", store, storeUsage)
	flags.StringVar(&s.SPDKNodes, "spdk-nodes", driver.NodesFromFile, "where the SPDK nodes are named: file, the configuration file, or kube, the SPDKNode resources")
	flags.StringVar(&s.Kubeconfig, "kubeconfig", "", "file that says how the API server is reached; default is as kubectl finds it, or the pod's service account")
}
