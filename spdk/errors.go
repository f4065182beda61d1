package spdk

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Errors of the connection. Both are wrapped with the method and the address.
var (
	// ErrUnreachable says that the request was surely not sent: nothing has happened.
	ErrUnreachable = errors.New("SPDK is unreachable")
	// ErrUnknownOutcome says that the request was sent and that no usable answer came:
	// it may have taken effect, now or later. Read the state before acting again.
	ErrUnknownOutcome = errors.New("outcome unknown")
)

// Errors of the operations of Node, wrapped with the object.
var (
	// ErrNotFound says that the object, or one that it needs, does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict says that an object of that name exists and differs in something that
	// cannot be corrected in place.
	ErrConflict = errors.New("exists with other parameters")
	// ErrNoSpace says that the lvstore has too few free clusters.
	ErrNoSpace = errors.New("not enough free space")
	// ErrBusy says that something else uses the object now; a later try may succeed.
	ErrBusy = errors.New("busy")
	// ErrLastLeg says that the leg is the only one of its raid that holds all data.
	ErrLastLeg = errors.New("last leg in sync")
	// ErrNoBdev says that a controller is attached and has no bdev: its namespace is
	// missing, or its UUID is already taken in this process.
	ErrNoBdev = errors.New("controller has no bdev")
	// ErrNotOnline says that a raid could not be brought to the state online.
	ErrNotOnline = errors.New("raid is not online")
	// ErrMissedResize says that a leg's controller has not been told of its replica's new
	// size, and will not be: only attaching it anew brings it.
	ErrMissedResize = errors.New("the notice of a new size was missed")
	// ErrDiskHangs says that a disk doesn't answer.
	ErrDiskHangs = errors.New("the disk doesn't answer")
	// ErrInForceDiffers says that SPDK runs with other options than asked for and that
	// they cannot be changed while it runs.
	ErrInForceDiffers = errors.New("other options are in force")
)

// Codes of JSON-RPC 2.0 that SPDK uses beside negative errno values
// (include/spdk/jsonrpc.h).
const (
	CodeParseError     = -32700
	CodeInvalidRequest = -32600
	CodeMethodNotFound = -32601
	CodeInvalidParams  = -32602
	CodeInternalError  = -32603
)

// CodeNotForwarded is how a gateway answers when it cannot reach SPDK; JSON-RPC leaves this
// range to implementations. A Client makes ErrUnreachable of it.
const CodeNotForwarded = -32001

// Error is an error that SPDK answered: the call was received and refused or failed.
type Error struct {
	// Method is the method that was called.
	Method string
	// Code is a negative errno or one of the Code constants; which of them a situation
	// gets differs from method to method.
	Code int
	// Message is SPDK's text. It is for people only.
	Message string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s (code %d)", e.Method, e.Message, e.Code)
}

// IsErrno reports whether err is an answer of SPDK with the code -errno.
func IsErrno(err error, errno unix.Errno) bool {
	return IsCode(err, -int(errno))
}

// IsCode reports whether err is an answer of SPDK with that code.
func IsCode(err error, code int) bool {
	var answer *Error
	return errors.As(err, &answer) && answer.Code == code
}

// answered reports whether err is an answer of SPDK, so that the state can be read
// again at once and tells what happened.
func answered(err error) bool {
	var answer *Error
	return errors.As(err, &answer)
}

func isNotFound(err error) bool { return errors.Is(err, ErrNotFound) }
