package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/show"
)

// container is the driver's in its pods.
const container = "holdfast"

// runner runs kubectl with arguments.
type runner func(ctx context.Context, out, errs io.Writer, args ...string) error

func kubectl(ctx context.Context, out, errs io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, "kubectl", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, out, errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("kubectl exec: %w", err)
	}
	return nil
}

// inPod has a command run in the pod of the leading controller, which reaches the SPDK nodes. The first argument of one that takes a volume is
// made an ID here, where claims can be read.
func (s *server) inPod(cmd *cobra.Command, takesVolume bool) {
	cmd.Short += " (in the controller's pod)"
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if takesVolume {
			o, done, err := s.Open(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			v, err := o.Find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			args = append([]string{v.ID}, args[1:]...)
		}
		return s.runInPod(cmd, args)
	}
}

func (s *server) runInPod(cmd *cobra.Command, args []string) error {
	_, c, _, err := s.connect()
	if err != nil {
		return err
	}
	teller, err := show.Reports{Client: c, Namespace: s.driverNamespace, Clock: clock.RealClock{}}.Report(cmd.Context())
	if err != nil {
		return err
	}
	if teller.Teller.Problem != "" {
		return fmt.Errorf("%s needs the SPDK nodes asked, in the leading controller's pod: %s", cmd.CommandPath(), teller.Teller.Problem)
	}
	pod := teller.Teller.Controller
	source, err := s.sourceOf(cmd.Context(), c, pod)
	if err != nil {
		return err
	}
	var command []string
	if s.kubeconfig != "" {
		command = append(command, "--kubeconfig="+s.kubeconfig)
	}
	if s.context != "" {
		command = append(command, "--context="+s.context)
	}
	command = append(command, "exec", "--namespace="+s.driverNamespace, pod, "--container="+container, "--", "holdfast")
	command = append(command, strings.Fields(strings.TrimPrefix(cmd.CommandPath(), cmd.Root().CommandPath()))...)
	command = append(append(append(command, args...), ownFlags(cmd)...), source...)
	return s.kubectl(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), command...)
}

// sourceOf returns the arguments that say where a controller finds the records and the SPDK nodes.
func (s *server) sourceOf(ctx context.Context, c client.Client, name string) ([]string, error) {
	var pod corev1.Pod
	if err := c.Get(ctx, client.ObjectKey{Namespace: s.driverNamespace, Name: name}, &pod); err != nil {
		return nil, fmt.Errorf("find the pod of the leading controller: %w", err)
	}
	var found []string
	for _, of := range pod.Spec.Containers {
		for _, arg := range of.Args {
			flag, _, _ := strings.Cut(arg, "=")
			if of.Name == container && (flag == "--config" || flag == "--store" || flag == "--spdk-nodes") {
				found = append(found, arg)
			}
		}
	}
	if len(found) == 0 {
		return nil, errors.New("the pod " + name + " has no container " + container + " with --store=kube among its arguments: was it installed by the chart?")
	}
	return found, nil
}

// ownFlags are the flags of the command itself that were given.
func ownFlags(cmd *cobra.Command) []string {
	var flags []string
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if !f.Changed {
			return
		}
		values := []string{f.Value.String()}
		if many, ok := f.Value.(pflag.SliceValue); ok {
			values = many.GetSlice()
		}
		for _, value := range values {
			flags = append(flags, "--"+f.Name+"="+value)
		}
	})
	return flags
}
