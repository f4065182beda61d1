// Package sim is a simulated SPDK target: what one nvmf_tgt process shows to
// those who use it, as far as this project's driver, its tests and its demo do.
//
// It owns the JSON-RPC server on a Unix socket with SPDK's framing, names,
// defaults and errors; lvol stores that really share clusters; raid1; bdevs over
// NVMe/TCP with SPDK's reset and time-out behaviour; the NVMe-oF target; and
// faults on demand. Data moves for real: a Linux kernel and another SPDK connect
// to it through package nvmetcp.
//
// A Node is a machine with disks. Start, Kill and Restart make and end the
// process on it; what SPDK keeps in memory only (nvmf, raid and NVMe
// configuration) lives in the process and ends with it, what it keeps on disk
// (lvol stores and their data) belongs to the node and stays.
//
// Behaviour was taken from SPDK 26.09-pre, commit 3230130e6a. Where the two
// differ the simulator is wrong. It does not import package spdk, so that one
// misunderstanding cannot hide in both.
package sim
