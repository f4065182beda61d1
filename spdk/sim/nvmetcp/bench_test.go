package nvmetcp

import (
	"fmt"
	"sync"
	"testing"
)

// BenchmarkLoopback moves data between a host and a target over loopback, 16
// commands in flight.
func BenchmarkLoopback(b *testing.B) {
	tgt := NewTarget(TargetConfig{})
	b.Cleanup(func() { _ = tgt.Close() })
	if err := tgt.Listen("127.0.0.1:0"); err != nil {
		b.Fatal(err)
	}
	sub, err := tgt.AddSubsystem(SubsystemConfig{NQN: testNQN, AllowAnyHost: true})
	if err != nil {
		b.Fatal(err)
	}
	if err := sub.AddListener(tgt.Addr()); err != nil {
		b.Fatal(err)
	}
	if err := sub.AddNamespace(NamespaceConfig{NSID: 1, Device: newMemDisk(4096, 64<<20)}); err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{4 << 10, 128 << 10} {
		for _, op := range []string{"read", "write"} {
			for _, digest := range []bool{false, true} {
				b.Run(fmt.Sprintf("%s/%dKiB/digests=%v", op, size>>10, digest), func(b *testing.B) {
					c, err := Connect(b.Context(), HostConfig{Addr: tgt.Addr(), SubNQN: testNQN, HostNQN: testHost, IOQueues: 2, HeaderDigest: digest, DataDigest: digest})
					if err != nil {
						b.Fatal(err)
					}
					defer c.Close()
					move(b, c, op, size)
				})
			}
		}
	}
}

func move(b *testing.B, c *Controller, op string, size int) {
	b.SetBytes(int64(size))
	b.ReportAllocs()
	work := make(chan int)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			p := make([]byte, size)
			for i := range work {
				off := int64(i*size) % (64 << 20)
				do := c.Read
				if op == "write" {
					do = c.Write
				}
				if err := do(b.Context(), 1, p, off); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := 0; b.Loop(); i++ {
		work <- i
	}
	close(work)
	wg.Wait()
}
