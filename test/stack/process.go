package stack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
)

// Process is a process of the driver on this machine.
type Process struct {
	stack  *Stack
	name   string
	binary string
	args   []string

	mu      sync.Mutex
	running *exec.Cmd // nil while it does not run
}

// NewProcess makes a process, which Start starts; it ends with the stack.
func (s *Stack) NewProcess(name, binary string, args ...string) *Process {
	p := &Process{stack: s, name: name, binary: binary, args: args}
	s.onClose(p.stop)
	return p
}

// Start starts the process, unless it runs.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running != nil {
		return nil
	}
	log, err := p.stack.log(p.name)
	if err != nil {
		return err
	}
	cmd := exec.Command(p.binary, p.args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the %s: %w", p.name, err)
	}
	p.running = cmd
	return nil
}

// PeakMemory returns the most memory that the process, which must run, has had resident, in bytes (proc(5), VmHWM).
func (p *Process) PeakMemory() (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		return 0, fmt.Errorf("memory of the %s: it doesn't run", p.name)
	}
	body, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.running.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("memory of the %s: %w", p.name, err)
	}
	for line := range strings.Lines(string(body)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("memory of the %s: the kernel tells none", p.name)
}

// Kill ends the process as SIGKILL does.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

// stop ends the process in good order.
func (p *Process) stop() { p.end(os.Interrupt) }

func (p *Process) end(with os.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		return
	}
	_ = p.running.Process.Signal(syscall.SIGCONT) // a stopped one ends by nothing but SIGKILL
	_ = p.running.Process.Signal(with)            // it may have ended by itself
	_ = p.running.Wait()                          // how it ended is in its log
	p.running = nil
}

// Freeze stops the process as SIGSTOP does, or lets it go on.
func (p *Process) Freeze(on bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		return nil
	}
	signal := syscall.SIGCONT
	if on {
		signal = syscall.SIGSTOP
	}
	if err := p.running.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s to the %s: %w", signal, p.name, err)
	}
	return nil
}

// gateway is the gateway of a target.
type gateway struct {
	*Process
	port int
}
