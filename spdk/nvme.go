package spdk

import "context"

// NVMeControllerInfo is one attached controller with its paths.
type NVMeControllerInfo struct {
	Name string `json:"name"`
	// Ctrlrs has one entry, because legs are attached with multipath disabled.
	Ctrlrs []NVMePathInfo `json:"ctrlrs"`
}

// NVMePathInfo is one path of a controller.
type NVMePathInfo struct {
	// State is enabled, resetting, reconnect_is_delayed, disabled, failed or deleting.
	State string          `json:"state"`
	Trid  NVMeTransportID `json:"trid"`
	// Cntlid is the controller id that the target gave.
	Cntlid int `json:"cntlid"`
	Host   struct {
		NQN string `json:"nqn"`
	} `json:"host"`
}

// NVMeTransportID is where a controller is attached.
type NVMeTransportID struct {
	Trtype  string `json:"trtype"`
	Adrfam  string `json:"adrfam"`
	Traddr  string `json:"traddr"`
	Trsvcid string `json:"trsvcid"`
	Subnqn  string `json:"subnqn"`
}

// BdevNVMeGetControllersParams chooses the controllers to list; the zero value lists all.
type BdevNVMeGetControllersParams struct {
	// Name is one controller's. SPDK answers -EINVAL when there is none.
	Name string `json:"name,omitempty"`
}

var bdevNVMeGetControllers = register[BdevNVMeGetControllersParams, []NVMeControllerInfo]("bdev_nvme_get_controllers")

// BdevNVMeGetControllers lists NVMe controllers of the process.
func BdevNVMeGetControllers(ctx context.Context, c Caller, p BdevNVMeGetControllersParams) ([]NVMeControllerInfo, error) {
	return bdevNVMeGetControllers.call(ctx, c, p)
}

// BdevNVMeAttachControllerParams attaches an NVMe-oF controller.
type BdevNVMeAttachControllerParams struct {
	// Name is the controller's; its first namespace becomes the bdev Name + "n1".
	Name string `json:"name"`
	// Trtype is TCP, Adrfam IPv4 or IPv6, Trsvcid the port.
	Trtype  string `json:"trtype"`
	Adrfam  string `json:"adrfam"`
	Traddr  string `json:"traddr"`
	Trsvcid string `json:"trsvcid"`
	Subnqn  string `json:"subnqn"`
	Hostnqn string `json:"hostnqn"`
	// Multipath is disable, so that a second attach under the same name is refused.
	Multipath string `json:"multipath"`
	// The three timeouts are in seconds: reconnect delay <= fast I/O fail <= loss.
	CtrlrLossTimeoutSec  int `json:"ctrlr_loss_timeout_sec"`
	ReconnectDelaySec    int `json:"reconnect_delay_sec"`
	FastIOFailTimeoutSec int `json:"fast_io_fail_timeout_sec"`
	// DHCHAPKey is the name of the key with which this node authenticates, DHCHAPCtrlrKey of that with which the controller has to.
	DHCHAPKey      string `json:"dhchap_key,omitempty"`
	DHCHAPCtrlrKey string `json:"dhchap_ctrlr_key,omitempty"`
}

var bdevNVMeAttachController = register[BdevNVMeAttachControllerParams, []string]("bdev_nvme_attach_controller")

// BdevNVMeAttachController attaches a controller and returns the names of its bdevs.
// There are none when the namespace's UUID is already taken in the process.
func BdevNVMeAttachController(ctx context.Context, c Caller, p BdevNVMeAttachControllerParams) ([]string, error) {
	return bdevNVMeAttachController.call(ctx, c, p)
}

// BdevNVMeDetachControllerParams names a controller.
type BdevNVMeDetachControllerParams struct {
	Name string `json:"name"`
}

var bdevNVMeDetachController = register[BdevNVMeDetachControllerParams, bool]("bdev_nvme_detach_controller")

// BdevNVMeDetachController detaches a controller and so removes its bdevs.
func BdevNVMeDetachController(ctx context.Context, c Caller, p BdevNVMeDetachControllerParams) error {
	return bdevNVMeDetachController.do(ctx, c, p)
}

// BdevNVMeSetOptionsParams are the options of the NVMe module that the driver sets. They
// hold for every controller of the process, local disks included.
type BdevNVMeSetOptionsParams struct {
	// ActionOnTimeout is none, reset or abort.
	ActionOnTimeout string `json:"action_on_timeout"`
	// TimeoutUS and TimeoutAdminUS are in microseconds; 0 watches nothing.
	TimeoutUS      uint64 `json:"timeout_us"`
	TimeoutAdminUS uint64 `json:"timeout_admin_us"`
	// KeepAliveTimeoutMS is in milliseconds; the target may grant more.
	KeepAliveTimeoutMS uint32 `json:"keep_alive_timeout_ms"`
	// TransportAckTimeout n closes a TCP connection after 2^n ms without an ACK; 0 is off.
	TransportAckTimeout uint8 `json:"transport_ack_timeout"`
	// TCPConnectTimeoutMS is in milliseconds; 0 is off.
	TCPConnectTimeoutMS uint32 `json:"tcp_connect_timeout_ms"`
}

var bdevNVMeSetOptions = register[BdevNVMeSetOptionsParams, bool]("bdev_nvme_set_options")

// BdevNVMeSetOptions sets the options. SPDK answers -EPERM once any controller exists.
func BdevNVMeSetOptions(ctx context.Context, c Caller, p BdevNVMeSetOptionsParams) error {
	return bdevNVMeSetOptions.do(ctx, c, p)
}
