package cluster

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// reportLimit is for everything that Report asks.
const reportLimit = 3 * time.Minute

// Report writes what kubectl knows of everything, and the logs of all pods, to the directory of logs, and returns its name. What can't be had is
// replaced by the reason: the test has failed already.
func (c *Cluster) Report(ctx context.Context) string {
	if c.SPDK == nil || c.apiserver == nil {
		return c.options.Logs
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportLimit)
	defer cancel()
	for file, args := range map[string]string{
		"objects.txt":  "get nodes,csinodes,pods,pvc,pv,volumeattachments,volumesnapshots,volumesnapshotcontents,statefulsets,volumes.csi.holdfast.dev,snapshots.csi.holdfast.dev,spdknodes -A -o wide",
		"volumes.yaml": "get volumes.csi.holdfast.dev -o yaml",
		"describe.txt": "describe pods,pvc -A",
		"events.txt":   "get events -A --sort-by=.lastTimestamp",
	} {
		c.save(ctx, file, strings.Fields(args)...)
	}
	pods, err := c.Kubectl(ctx, "", "get", "pods", "-A", "-o", `jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{"\n"}{end}`)
	if err != nil {
		return c.options.Logs
	}
	for line := range strings.Lines(pods) {
		namespace, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		c.save(ctx, "pod-"+name+".log", "-n", namespace, "logs", name, "--all-containers", "--prefix", "--tail=20000")
		c.save(ctx, "pod-"+name+"-before.log", "-n", namespace, "logs", name, "--all-containers", "--prefix", "--previous", "--tail=20000")
	}
	return c.options.Logs
}

func (c *Cluster) save(ctx context.Context, file string, args ...string) {
	out, err := c.Kubectl(ctx, "", args...)
	if err != nil {
		out += "\n" + err.Error()
	}
	_ = os.WriteFile(filepath.Join(c.options.Logs, file), []byte(out), 0o644) // the test has its result
}
