package main

import (
	"bytes"
	"flag"
	"strings"
	"testing"

	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

func TestMessagesOfControllerRuntimeAreInTheLog(t *testing.T) {
	root()
	settings := klog.CaptureState()
	defer settings.Restore()
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{"logtostderr": "false", "alsologtostderr": "false", "stderrthreshold": "FATAL"} {
		if err := flags.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	klog.SetOutput(&out)
	log.Log.Info("The API server is away")
	klog.Flush()
	if !strings.Contains(out.String(), "The API server is away") {
		t.Errorf("the log is %q", out.String())
	}
}
