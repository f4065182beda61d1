package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	idleCalls = 2
	// outputDelay is how long a command's streams may outlive it, held open by a
	// child that it left behind.
	outputDelay = time.Second
)

// Serve is the guest's side: it keeps idle calls open to the machine at address,
// each begun with token, and serves what comes. It returns when a call can't be
// made: the machine's side has gone.
func Serve(address, token string) error {
	failed := make(chan error, idleCalls)
	for range idleCalls {
		go func() { failed <- keepCalling(address, token) }()
	}
	return <-failed
}

// keepCalling has one idle call open at any time.
func keepCalling(address, token string) error {
	for {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		var req Request
		if err := writeJSON(conn, token); err != nil {
			return err
		}
		if err := readJSON(conn, &req); err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			serve(conn, req)
		}()
	}
}

func serve(conn net.Conn, req Request) {
	var err error
	switch {
	case req.Run != nil:
		serveRun(conn, req.Run)
		return
	case req.Dial != nil:
		err = serveDial(conn, req.Dial)
	case req.Put != nil:
		err = servePut(conn, req.Put)
	case req.Get != nil:
		err = serveGet(conn, req.Get)
	case req.Load != nil:
		err = serveLoad(conn, req.Load)
	default:
		err = errors.New("empty request")
	}
	if err != nil {
		_ = writeJSON(conn, Reply{Error: err.Error()}) // the other side may have gone
	}
}

func servePut(conn net.Conn, file *File) error {
	if err := os.MkdirAll(filepath.Dir(file.Path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(file.Path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, file.Mode)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, conn, file.Size)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return writeJSON(conn, Reply{})
}

func serveGet(conn net.Conn, file *File) error {
	// Files of sysfs and proc tell no true size before they are read.
	b, err := os.ReadFile(file.Path)
	if err != nil {
		return err
	}
	if err := writeJSON(conn, Reply{Size: int64(len(b))}); err != nil {
		return err
	}
	_, err = conn.Write(b)
	return err
}

func serveDial(conn net.Conn, d *Dial) error {
	inner, err := net.Dial(d.Network, d.Address)
	if err != nil {
		return err
	}
	defer inner.Close()
	if err := writeJSON(conn, Reply{}); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{conn, inner}, {inner, conn}} {
		wg.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			// One side has ended: so has the connection.
			inner.Close()
			conn.Close()
		})
	}
	wg.Wait()
	return nil
}

// serveRun runs a command in a process group of its own, which is killed when
// the call is closed.
func serveRun(conn net.Conn, c *Command) {
	out := &frameWriter{w: conn}
	if len(c.Args) == 0 {
		_ = out.send(frameNotFound, []byte("no command given"))
		return
	}
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Dir = c.Dir
	cmd.Stdout = stream{out, frameStdout}
	cmd.Stderr = stream{out, frameStderr}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = outputDelay
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		_ = out.send(frameNotFound, []byte(err.Error()))
		return
	}
	ended, hungUp := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(hungUp)
		steer(conn, stdin, cmd.Process.Pid, ended)
	}()
	err = cmd.Wait()
	close(ended)
	code := cmd.ProcessState.ExitCode()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	if err != nil && code == 0 && !errors.Is(err, exec.ErrWaitDelay) {
		fmt.Fprintf(cmd.Stderr, "agent: %v\n", err)
	}
	_ = out.send(frameExit, []byte(strconv.Itoa(code)))
	// The other side hangs up. Doing it here, with input unread, would reset the
	// connection and take the last frames with it.
	<-hungUp
}

// steer passes input and signals to a command until the call ends. The call's
// end before the command's kills the command with its group; what a command
// leaves behind in the background lives on.
func steer(conn net.Conn, stdin io.WriteCloser, pid int, ended <-chan struct{}) {
	defer stdin.Close()
	for {
		kind, payload, err := readFrame(conn)
		switch {
		case err != nil:
			select {
			case <-ended: // its number may be another's by now
			default:
				_ = syscall.Kill(-pid, syscall.SIGKILL)
			}
			return
		case kind == frameSignal && len(payload) == 1:
			_ = syscall.Kill(-pid, syscall.Signal(payload[0]))
		case kind == frameStdin && len(payload) == 0:
			stdin.Close()
		case kind == frameStdin:
			_, _ = stdin.Write(payload) // a command need not read its input
		}
	}
}
