package sim

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestSlowLinkDelaysWhatIsSentOverIt(t *testing.T) {
	c := newCluster(t, nil)
	c.attach(1)
	const delay = 100 * time.Millisecond
	c.net.SetLink("n0", "n1", LinkFault{Delay: delay})
	start := time.Now()
	mustWrite(t, c.nodes[0], "r1n1", 0, pattern(1, 4096))
	if got := time.Since(start); got < delay {
		t.Errorf("a write over a link with %v of delay took %v", delay, got)
	}
}

func TestNarrowLinkLetsThroughSoMuchASecond(t *testing.T) {
	c := newCluster(t, nil)
	c.attach(1)
	c.net.SetLink("n0", "n1", LinkFault{BytesPerSecond: 1 << 20})
	start := time.Now()
	mustWrite(t, c.nodes[0], "r1n1", 0, pattern(1, 512<<10))
	if got := time.Since(start); got < 250*time.Millisecond {
		t.Errorf("half a second's worth of data took %v", got)
	}
}

func TestHostOutsideTheNetworkCanBeCutOff(t *testing.T) {
	c := newCluster(t, nil)
	c.assemble()
	host := c.connect()
	c.net.Cut(Outside, "n0", true)
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := host.Write(ctx, 1, pattern(1, 4096), 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a write of a host that is cut off: %v", err)
	}
	c.net.Cut(Outside, "n0", false)
	ctx, cancel = context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := host.Write(ctx, 1, pattern(2, 4096), 0); err != nil {
		t.Fatal(err)
	}
	mustHold(t, c.nodes[0], "vol", 0, pattern(2, 4096))
}
