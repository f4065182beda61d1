package mount

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	utilexec "k8s.io/utils/exec"
)

// jobs are the commands and system calls under way that may block for as long as
// a device does. At most one runs for each subject, a device or a target.
type jobs struct {
	mu      sync.Mutex
	running map[string]*job
	all     sync.WaitGroup
}

// job is one of them; value and err may be read once done is closed.
type job struct {
	what  string
	done  chan struct{}
	value any
	err   error
}

func deviceKey(device string) string { return "device " + device }
func targetKey(target string) string { return "target " + target }

// start joins the job of that subject, or begins one.
func (j *jobs) start(subject, what string, f func() (any, error)) *job {
	j.mu.Lock()
	defer j.mu.Unlock()
	if at, ok := j.running[subject]; ok {
		return at
	}
	if j.running == nil {
		j.running = map[string]*job{}
	}
	at := &job{what: what, done: make(chan struct{})}
	j.running[subject] = at
	j.all.Add(1)
	go func() {
		defer j.all.Done()
		at.value, at.err = f()
		j.mu.Lock()
		delete(j.running, subject)
		j.mu.Unlock()
		close(at.done)
	}()
	return at
}

// do runs f for subject, or joins the same thing under way, and waits for its
// end or ctx's. Another thing under way for that subject is waited for first.
func do[T any](ctx context.Context, j *jobs, subject, what string, f func() (T, error)) (T, error) {
	var none T
	for {
		if err := context.Cause(ctx); err != nil {
			return none, fmt.Errorf("%s: %w", what, err)
		}
		at := j.start(subject, what, func() (any, error) { return f() })
		select {
		case <-at.done:
			if at.what == what {
				return at.value.(T), at.err
			}
		case <-ctx.Done():
			return none, fmt.Errorf("%s: %q has not finished and goes on: %w", what, at.what, context.Cause(ctx))
		}
	}
}

// settle waits until nothing runs for subject, or ctx ends.
func (j *jobs) settle(ctx context.Context, subject string) error {
	j.mu.Lock()
	at := j.running[subject]
	j.mu.Unlock()
	if at == nil {
		return nil
	}
	select {
	case <-at.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%q has not finished and goes on: %w", at.what, context.Cause(ctx))
	}
}

// wait returns when nothing runs or ctx has ended.
func (j *jobs) wait(ctx context.Context) error {
	idle := make(chan struct{})
	go func() { // ends with the last job
		j.all.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("commands on volumes have not finished: %w", context.Cause(ctx))
	}
}

// run runs a command to its end, in place of the one that is under way for the
// same subject with the same arguments, and returns its standard output. The
// error wraps the exit error and carries what the command wrote.
func (m *Mounter) run(ctx context.Context, subject, name string, args ...string) (string, error) {
	line := name + " " + strings.Join(args, " ")
	return do(ctx, &m.jobs, subject, line, func() (string, error) {
		out, err := m.exec.Command(name, args...).CombinedOutput()
		if err == nil {
			return string(out), nil
		}
		if errors.Is(err, utilexec.ErrExecutableNotFound) {
			return "", fmt.Errorf("%s is not installed: %w", name, err)
		}
		return string(out), fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
	})
}

// exitStatus is a command's exit status, or -1 where err is of another kind.
func exitStatus(err error) int {
	var exit utilexec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitStatus()
	}
	return -1
}
