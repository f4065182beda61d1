// Package nvmetcp is an NVMe/TCP target and host in Go: the data path of the
// simulated SPDK target.
//
// It owns the wire protocol (NVM Express Base 2.0, NVMe over TCP transport 1.0)
// and nothing of SPDK's JSON-RPC. Three things stand side by side:
//
//   - Target serves Subsystems whose namespaces are Devices. It answers as
//     SPDK's lib/nvmf does, so that a Linux kernel and an SPDK bdev_nvme attach
//     to it: same checks at connect, same keep-alive rounding, same ANA and
//     asynchronous events, same statuses.
//   - Controller, made by Connect, is one association of a host with a
//     subsystem: queues, keep-alive, namespaces, I/O. It has no policy.
//   - Head is the Linux kernel's native multipath over Controllers: reconnect,
//     path selection by ANA state, I/O that waits while a path may come back.
//
// A Gate freezes whatever shares it, as SIGSTOP freezes a process. Target.Kill
// ends a target as SIGKILL does. Faults of disks belong to the Device.
package nvmetcp
