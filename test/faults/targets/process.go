package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
)

const (
	// stallBudget is what the targets are started for: the matrix's.
	stallBudget = 10 * time.Second
	startLimit  = time.Minute
	// thawLimit bounds a call that ends a fault: a process with one core that has its own disk hang below a leg of its own freezes for 30 s
	// for each command that times out (docs/spdk.md, 3).
	thawLimit = 3 * time.Minute
	pollPause = 100 * time.Millisecond
	// The disk below the lvstore, and the bdev over it that can be told to answer nothing.
	disk, faulty, lvstore = "aio0", "EE_aio0", "lvs"
)

// target is one nvmf_tgt. Its process outlives the program that starts it; its number is in a file.
type target struct {
	*lab
	number int
	name   string // of its files
}

func (t *target) socket() string { return t.name + ".sock" }
func (t *target) image() string  { return t.name + ".img" }

func (t *target) control(ctx context.Context, what string) error {
	switch what {
	case "start":
		return t.start(ctx)
	case "kill":
		return t.signal(syscall.SIGKILL)
	case "stop":
		return t.signal(syscall.SIGSTOP)
	case "cont":
		return t.signal(syscall.SIGCONT)
	case "drop", "undrop":
		return t.cut(what == "drop")
	case "slow", "fast":
		return t.slow(what == "slow")
	case "diskhang":
		return t.call(ctx, timeouts.RPC, "bdev_error_inject_error", map[string]any{"name": faulty, "io_type": "all", "error_type": "pending", "num": 1 << 30})
	case "diskok":
		err := t.call(ctx, thawLimit, "bdev_error_inject_error", map[string]any{"name": faulty, "io_type": "clear", "error_type": "failure"})
		err = errors.Join(err, t.call(ctx, thawLimit, "bdev_error_resume_pending", map[string]any{"name": faulty}))
		if err != nil && t.signal(0) != nil {
			return nil // it has crashed, and what hung with it
		}
		return err
	}
	return fmt.Errorf("no such command: %s", what)
}

func (t *target) pid() (int, error) {
	b, err := os.ReadFile(t.name + ".pid")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// signal signals the process, if it is the one that was started.
func (t *target) signal(s syscall.Signal) error {
	pid, err := t.pid()
	if err != nil {
		return err
	}
	if program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || program != t.program {
		return fmt.Errorf("target %d does not run", t.number)
	}
	return syscall.Kill(pid, s)
}

func (t *target) end() {
	_ = t.signal(syscall.SIGKILL) // it may have ended
}

func (t *target) removeDisk() error {
	if err := os.Remove(t.image()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// start starts the process and configures it; the first time the lvstore is made.
func (t *target) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	_, err := os.Stat(t.image())
	fresh := errors.Is(err, fs.ErrNotExist)
	if err := t.makeDisk(fresh); err != nil {
		return err
	}
	_ = os.Remove(t.socket()) // of a predecessor
	log, err := os.OpenFile(t.name+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	args := append([]string{"netns", "exec", t.namespace(), t.program}, t.args...)
	cmd := exec.Command("ip", append(args, "-r", t.socket(), "--shm-id", strconv.Itoa(900+t.number), "--wait-for-rpc")...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start target %d: %w", t.number, err)
	}
	if err := os.WriteFile(t.name+".pid", []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		return err
	}
	if err := t.configure(ctx, fresh); err != nil {
		return fmt.Errorf("configure target %d (its log is %s.log): %w", t.number, t.name, err)
	}
	return cmd.Process.Release()
}

func (t *target) makeDisk(fresh bool) error {
	if !fresh {
		return nil
	}
	f, err := os.Create(t.image())
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(int64(t.diskMiB)<<20), f.Close())
}

// configure makes what `holdfast spdk-config` would have the process begin with. Bdevs are examined only when told so, or the lvstore
// would come up below the bdev that can fail.
func (t *target) configure(ctx context.Context, fresh bool) error {
	v, err := timeouts.Derive(timeouts.Budgets{ReplicaStall: stallBudget, TargetLoss: timeouts.DefaultBudgets().TargetLoss})
	if err != nil {
		return err
	}
	for !t.answers(ctx) {
		timer := time.NewTimer(pollPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return fmt.Errorf("it doesn't answer: %w", ctx.Err())
		}
	}
	steps := []struct {
		method string
		params map[string]any
	}{
		{"bdev_set_options", map[string]any{"bdev_auto_examine": false}},
		{"nvmf_set_config", t.nvmfConfig()},
		{"framework_start_init", nil},
		{"framework_wait_init", nil},
		{"bdev_nvme_set_options", map[string]any{
			"action_on_timeout": "reset", "timeout_us": v.Node.IOTimeout.Microseconds(), "timeout_admin_us": v.Node.AdminTimeout.Microseconds(),
			"keep_alive_timeout_ms": v.Node.KeepAlive.Milliseconds(), "transport_ack_timeout": v.Node.TransportAck,
		}},
		{"nvmf_create_transport", map[string]any{"trtype": "TCP", "kas": v.Node.KAS, "min_kato": v.Node.MinKATO.Milliseconds()}},
		{"bdev_aio_create", map[string]any{"name": disk, "filename": t.image(), "block_size": 4096, "fallocate": true}},
		{"bdev_error_create", map[string]any{"base_name": disk}},
	}
	last := steps[0]
	if fresh {
		last.method, last.params = "bdev_lvol_create_lvstore", map[string]any{"bdev_name": faulty, "lvs_name": lvstore, "clear_method": "none"}
	} else {
		last.method, last.params = "bdev_examine", map[string]any{"name": faulty}
	}
	for _, step := range append(steps, last) {
		if err := t.call(ctx, timeouts.RPC, step.method, step.params); err != nil {
			return err
		}
	}
	return t.call(ctx, timeouts.RPC, "bdev_wait_for_examine", nil)
}

// nvmfConfig is as holdfast spdk-config has it.
func (t *target) nvmfConfig() map[string]any {
	config := map[string]any{"dhchap_dhgroups": []string{"ffdhe3072"}}
	if t.pollGroups != "" {
		config["poll_groups_mask"] = t.pollGroups
	}
	return config
}

func (t *target) answers(ctx context.Context) bool {
	return t.call(ctx, timeouts.RPC, "rpc_get_methods", nil) == nil
}

func (t *target) call(ctx context.Context, limit time.Duration, method string, params map[string]any) error {
	client, err := spdk.Dial("unix://"+t.socket(), spdk.Options{CallTimeout: limit})
	if err != nil {
		return err
	}
	defer client.Close()
	if params == nil {
		return client.Call(ctx, method, nil, nil)
	}
	return client.Call(ctx, method, params, nil)
}
