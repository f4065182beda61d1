package sim

import (
	"fmt"
	"syscall"
)

// errno is a negative error number as SPDK's functions return it: 0 is success.
// It implements error so that it travels through Go's calls; the number goes
// into a JSON-RPC error's code, strerror into its message.
type errno int

// Negative error numbers used by the simulated modules.
const (
	errPERM       = -errno(syscall.EPERM)
	errNOENT      = -errno(syscall.ENOENT)
	errIO         = -errno(syscall.EIO)
	errNXIO       = -errno(syscall.ENXIO)
	errBADF       = -errno(syscall.EBADF)
	errNOMEM      = -errno(syscall.ENOMEM)
	errBUSY       = -errno(syscall.EBUSY)
	errEXIST      = -errno(syscall.EEXIST)
	errNODEV      = -errno(syscall.ENODEV)
	errINVAL      = -errno(syscall.EINVAL)
	errNOSPC      = -errno(syscall.ENOSPC)
	errNOTSUP     = -errno(syscall.EOPNOTSUPP)
	errTIMEDOUT   = -errno(syscall.ETIMEDOUT)
	errALREADY    = -errno(syscall.EALREADY)
	errNOKEY      = -errno(syscall.ENOKEY)
	errCANCELED   = -errno(syscall.ECANCELED)
	errNOBUFS     = -errno(syscall.ENOBUFS)
	errACCES      = -errno(syscall.EACCES)
	errRANGE      = -errno(syscall.ERANGE)
	errINPROGRESS = -errno(syscall.EINPROGRESS)
)

// glibcNames are the texts of glibc's strerror where Go's differ in case only;
// those listed here are the ones that the simulated modules answer with.
var glibcNames = map[errno]string{
	errPERM:       "Operation not permitted",
	errNOENT:      "No such file or directory",
	errIO:         "Input/output error",
	errNXIO:       "No such device or address",
	errBADF:       "Bad file descriptor",
	errNOMEM:      "Cannot allocate memory",
	errBUSY:       "Device or resource busy",
	errEXIST:      "File exists",
	errNODEV:      "No such device",
	errINVAL:      "Invalid argument",
	errNOSPC:      "No space left on device",
	errNOTSUP:     "Operation not supported",
	errTIMEDOUT:   "Connection timed out",
	errALREADY:    "Operation already in progress",
	errNOKEY:      "Required key not available",
	errCANCELED:   "Operation canceled",
	errRANGE:      "Numerical result out of range",
	errINPROGRESS: "Operation now in progress",
}

// strerror is glibc's text for the number, as spdk_strerror gives it.
func (e errno) strerror() string {
	if s, ok := glibcNames[e]; ok {
		return s
	}
	if e == -1 {
		return glibcNames[errPERM]
	}
	return fmt.Sprintf("Unknown error %d", -int(e))
}

// Error makes errno an error.
func (e errno) Error() string { return e.strerror() }
