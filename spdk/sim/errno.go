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
	ePERM      = -errno(syscall.EPERM)
	eNOENT     = -errno(syscall.ENOENT)
	eIO        = -errno(syscall.EIO)
	eNXIO      = -errno(syscall.ENXIO)
	eBADF      = -errno(syscall.EBADF)
	eNOMEM     = -errno(syscall.ENOMEM)
	eBUSY      = -errno(syscall.EBUSY)
	eEXIST     = -errno(syscall.EEXIST)
	eNODEV     = -errno(syscall.ENODEV)
	eINVAL     = -errno(syscall.EINVAL)
	eNOSPC     = -errno(syscall.ENOSPC)
	eNOTSUP    = -errno(syscall.EOPNOTSUPP)
	eTIMEDOUT  = -errno(syscall.ETIMEDOUT)
	eALREADY   = -errno(syscall.EALREADY)
	eNOKEY     = -errno(syscall.ENOKEY)
	eCANCELED  = -errno(syscall.ECANCELED)
	eRANGE     = -errno(syscall.ERANGE)
	eINPROGESS = -errno(syscall.EINPROGRESS)
)

// glibcNames are the texts of glibc's strerror where Go's differ in case only;
// those listed here are the ones that the simulated modules answer with.
var glibcNames = map[errno]string{
	ePERM:      "Operation not permitted",
	eNOENT:     "No such file or directory",
	eIO:        "Input/output error",
	eNXIO:      "No such device or address",
	eBADF:      "Bad file descriptor",
	eNOMEM:     "Cannot allocate memory",
	eBUSY:      "Device or resource busy",
	eEXIST:     "File exists",
	eNODEV:     "No such device",
	eINVAL:     "Invalid argument",
	eNOSPC:     "No space left on device",
	eNOTSUP:    "Operation not supported",
	eTIMEDOUT:  "Connection timed out",
	eALREADY:   "Operation already in progress",
	eNOKEY:     "Required key not available",
	eCANCELED:  "Operation canceled",
	eRANGE:     "Numerical result out of range",
	eINPROGESS: "Operation now in progress",
}

// strerror is glibc's text for the number, as spdk_strerror gives it.
func (e errno) strerror() string {
	if s, ok := glibcNames[e]; ok {
		return s
	}
	if e == -1 {
		return glibcNames[ePERM]
	}
	return fmt.Sprintf("Unknown error %d", -int(e))
}

// Error makes errno an error.
func (e errno) Error() string { return e.strerror() }
