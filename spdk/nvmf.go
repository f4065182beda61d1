package spdk

import "context"

// ListenAddress is an address of an NVMe-oF listener.
type ListenAddress struct {
	// Trtype is TCP, Adrfam IPv4 or IPv6, Trsvcid the port.
	Trtype  string `json:"trtype"`
	Adrfam  string `json:"adrfam"`
	Traddr  string `json:"traddr"`
	Trsvcid string `json:"trsvcid"`
}

// SubsystemInfo is one subsystem as nvmf_get_subsystems describes it.
type SubsystemInfo struct {
	NQN string `json:"nqn"`
	// Subtype is NVMe or Discovery.
	Subtype         string          `json:"subtype"`
	ListenAddresses []ListenAddress `json:"listen_addresses"`
	AllowAnyHost    bool            `json:"allow_any_host"`
	Hosts           []struct {
		NQN string `json:"nqn"`
	} `json:"hosts"`
	SerialNumber string          `json:"serial_number"`
	ModelNumber  string          `json:"model_number"`
	MinCntlid    int             `json:"min_cntlid"`
	MaxCntlid    int             `json:"max_cntlid"`
	Namespaces   []NamespaceInfo `json:"namespaces"`
}

// NamespaceInfo is one namespace of a subsystem.
type NamespaceInfo struct {
	NSID int `json:"nsid"`
	// BdevName is the canonical name of the bdev.
	BdevName string `json:"bdev_name"`
	// NGUID is 32 hexadecimal digits.
	NGUID string `json:"nguid"`
	UUID  string `json:"uuid"`
	// ANAGrpID is set exactly when the subsystem reports ANA.
	ANAGrpID *int `json:"anagrpid"`
}

// NVMfGetSubsystemsParams chooses the subsystems to list; the zero value lists all.
type NVMfGetSubsystemsParams struct {
	// NQN is one subsystem's. SPDK answers CodeInvalidParams when there is none.
	NQN string `json:"nqn,omitempty"`
}

var nvmfGetSubsystems = register[NVMfGetSubsystemsParams, []SubsystemInfo]("nvmf_get_subsystems")

// NVMfGetSubsystems lists subsystems, the discovery subsystem included.
func NVMfGetSubsystems(ctx context.Context, c Caller, p NVMfGetSubsystemsParams) ([]SubsystemInfo, error) {
	return nvmfGetSubsystems.call(ctx, c, p)
}

// NVMfCreateSubsystemParams describes a new subsystem.
type NVMfCreateSubsystemParams struct {
	NQN string `json:"nqn"`
	// SerialNumber has at most 20, ModelNumber at most 40 printable ASCII characters.
	SerialNumber string `json:"serial_number,omitempty"`
	ModelNumber  string `json:"model_number,omitempty"`
	// MaxNamespaces is 1: it also is the number of ANA groups.
	MaxNamespaces int `json:"max_namespaces"`
	// AllowAnyHost is always false: hosts with udev rules would attach to replicas.
	AllowAnyHost bool `json:"allow_any_host"`
	ANAReporting bool `json:"ana_reporting"`
	MinCntlid    int  `json:"min_cntlid,omitempty"`
	MaxCntlid    int  `json:"max_cntlid,omitempty"`
}

var nvmfCreateSubsystem = register[NVMfCreateSubsystemParams, bool]("nvmf_create_subsystem")

// NVMfCreateSubsystem makes a subsystem.
func NVMfCreateSubsystem(ctx context.Context, c Caller, p NVMfCreateSubsystemParams) error {
	return nvmfCreateSubsystem.do(ctx, c, p)
}

// NVMfSubsystemParams names a subsystem.
type NVMfSubsystemParams struct {
	NQN string `json:"nqn"`
}

var nvmfDeleteSubsystem = register[NVMfSubsystemParams, bool]("nvmf_delete_subsystem")

// NVMfDeleteSubsystem deletes a subsystem and disconnects its hosts.
func NVMfDeleteSubsystem(ctx context.Context, c Caller, p NVMfSubsystemParams) error {
	return nvmfDeleteSubsystem.do(ctx, c, p)
}

// NVMfAllowAnyHostParams opens or closes a subsystem to hosts that are not listed.
type NVMfAllowAnyHostParams struct {
	NQN          string `json:"nqn"`
	AllowAnyHost bool   `json:"allow_any_host"`
}

var nvmfSubsystemAllowAnyHost = register[NVMfAllowAnyHostParams, bool]("nvmf_subsystem_allow_any_host")

// NVMfSubsystemAllowAnyHost sets allow_any_host.
func NVMfSubsystemAllowAnyHost(ctx context.Context, c Caller, p NVMfAllowAnyHostParams) error {
	return nvmfSubsystemAllowAnyHost.do(ctx, c, p)
}

// NVMfHostParams names a host of a subsystem.
type NVMfHostParams struct {
	NQN  string `json:"nqn"`
	Host string `json:"host"`
}

// NVMfHostKeysParams names a host of a subsystem and the keys with which they authenticate to each other.
type NVMfHostKeysParams struct {
	NQN  string `json:"nqn"`
	Host string `json:"host"`
	// DHCHAPKey is the name of the host's key, DHCHAPCtrlrKey of the controller's; a host without a key doesn't authenticate.
	DHCHAPKey      string `json:"dhchap_key,omitempty"`
	DHCHAPCtrlrKey string `json:"dhchap_ctrlr_key,omitempty"`
}

var (
	nvmfSubsystemAddHost    = register[NVMfHostKeysParams, bool]("nvmf_subsystem_add_host")
	nvmfSubsystemSetKeys    = register[NVMfHostKeysParams, bool]("nvmf_subsystem_set_keys")
	nvmfSubsystemRemoveHost = register[NVMfHostParams, bool]("nvmf_subsystem_remove_host")
)

// NVMfSubsystemAddHost lets a host in.
func NVMfSubsystemAddHost(ctx context.Context, c Caller, p NVMfHostKeysParams) error {
	return nvmfSubsystemAddHost.do(ctx, c, p)
}

// NVMfSubsystemSetKeys changes the keys of a host; its connections stay.
func NVMfSubsystemSetKeys(ctx context.Context, c Caller, p NVMfHostKeysParams) error {
	return nvmfSubsystemSetKeys.do(ctx, c, p)
}

// NVMfSubsystemRemoveHost disconnects a host and keeps it out.
func NVMfSubsystemRemoveHost(ctx context.Context, c Caller, p NVMfHostParams) error {
	return nvmfSubsystemRemoveHost.do(ctx, c, p)
}

// NVMfNamespace describes a namespace to add.
type NVMfNamespace struct {
	NSID     int    `json:"nsid"`
	BdevName string `json:"bdev_name"`
	// NGUID is 32 hexadecimal digits. Left out, SPDK takes the bdev's.
	NGUID string `json:"nguid"`
	UUID  string `json:"uuid"`
}

// NVMfSubsystemAddNSParams adds a namespace to a subsystem.
type NVMfSubsystemAddNSParams struct {
	NQN       string        `json:"nqn"`
	Namespace NVMfNamespace `json:"namespace"`
}

var nvmfSubsystemAddNS = register[NVMfSubsystemAddNSParams, int]("nvmf_subsystem_add_ns")

// NVMfSubsystemAddNS adds a namespace and returns its id.
func NVMfSubsystemAddNS(ctx context.Context, c Caller, p NVMfSubsystemAddNSParams) (int, error) {
	return nvmfSubsystemAddNS.call(ctx, c, p)
}

// NVMfSubsystemRemoveNSParams names a namespace.
type NVMfSubsystemRemoveNSParams struct {
	NQN  string `json:"nqn"`
	NSID int    `json:"nsid"`
}

var nvmfSubsystemRemoveNS = register[NVMfSubsystemRemoveNSParams, bool]("nvmf_subsystem_remove_ns")

// NVMfSubsystemRemoveNS removes a namespace.
func NVMfSubsystemRemoveNS(ctx context.Context, c Caller, p NVMfSubsystemRemoveNSParams) error {
	return nvmfSubsystemRemoveNS.do(ctx, c, p)
}
