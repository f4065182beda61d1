package spdk

import "context"

// NVMfAddListenerParams makes a subsystem listen. The ANA state holds from the first
// connection on: SPDK gives it to all groups before the listener exists
// (lib/nvmf/subsystem.c, _nvmf_subsystem_add_listener).
type NVMfAddListenerParams struct {
	NQN           string        `json:"nqn"`
	ListenAddress ListenAddress `json:"listen_address"`
	// ANAState is left out for a subsystem that does not report ANA.
	ANAState ANAState `json:"ana_state,omitempty"`
}

var nvmfSubsystemAddListener = register[NVMfAddListenerParams, bool]("nvmf_subsystem_add_listener")

// NVMfSubsystemAddListener adds a listener.
func NVMfSubsystemAddListener(ctx context.Context, c Caller, p NVMfAddListenerParams) error {
	return nvmfSubsystemAddListener.do(ctx, c, p)
}

// NVMfListenerParams names a listener.
type NVMfListenerParams struct {
	NQN           string        `json:"nqn"`
	ListenAddress ListenAddress `json:"listen_address"`
}

var nvmfSubsystemRemoveListener = register[NVMfListenerParams, bool]("nvmf_subsystem_remove_listener")

// NVMfSubsystemRemoveListener removes a listener and disconnects whoever came by it.
func NVMfSubsystemRemoveListener(ctx context.Context, c Caller, p NVMfListenerParams) error {
	return nvmfSubsystemRemoveListener.do(ctx, c, p)
}

// NVMfSetANAStateParams sets the ANA state of all groups of a listener.
type NVMfSetANAStateParams struct {
	NQN           string        `json:"nqn"`
	ListenAddress ListenAddress `json:"listen_address"`
	ANAState      ANAState      `json:"ana_state"`
}

var nvmfSubsystemListenerSetANAState = register[NVMfSetANAStateParams, bool]("nvmf_subsystem_listener_set_ana_state")

// NVMfSubsystemListenerSetANAState sets the ANA state of a listener.
func NVMfSubsystemListenerSetANAState(ctx context.Context, c Caller, p NVMfSetANAStateParams) error {
	return nvmfSubsystemListenerSetANAState.do(ctx, c, p)
}

// NVMfSetNSANAGroupParams puts a namespace into an ANA group.
type NVMfSetNSANAGroupParams struct {
	NQN      string `json:"nqn"`
	NSID     int    `json:"nsid"`
	ANAGrpID int    `json:"anagrpid"`
}

var nvmfSubsystemSetNSANAGroup = register[NVMfSetNSANAGroupParams, bool]("nvmf_subsystem_set_ns_ana_group")

// NVMfSubsystemSetNSANAGroup sets the ANA group of a namespace. It answers when no command of that namespace executes any more: SPDK pauses
// the subsystem with the namespace's id, and so drains its I/O (lib/nvmf/nvmf_rpc.c, rpc_nvmf_subsystem_set_ns_ana_group; lib/nvmf/nvmf.c,
// nvmf_poll_group_pause_subsystem). Admin commands of the subsystem wait meanwhile. Its hosts are told that the namespace has changed.
func NVMfSubsystemSetNSANAGroup(ctx context.Context, c Caller, p NVMfSetNSANAGroupParams) error {
	return nvmfSubsystemSetNSANAGroup.do(ctx, c, p)
}

// ListenerInfo is one listener with its ANA states.
type ListenerInfo struct {
	Address ListenAddress `json:"address"`
	// ANAStates is nil when the subsystem does not report ANA.
	ANAStates []struct {
		ANAGroup int      `json:"ana_group"`
		ANAState ANAState `json:"ana_state"`
	} `json:"ana_states"`
}

var nvmfSubsystemGetListeners = register[NVMfSubsystemParams, []ListenerInfo]("nvmf_subsystem_get_listeners")

// NVMfSubsystemGetListeners lists the listeners of a subsystem.
func NVMfSubsystemGetListeners(ctx context.Context, c Caller, p NVMfSubsystemParams) ([]ListenerInfo, error) {
	return nvmfSubsystemGetListeners.call(ctx, c, p)
}

// SubsystemControllerInfo is one host that is connected to a subsystem.
type SubsystemControllerInfo struct {
	Cntlid  int    `json:"cntlid"`
	HostNQN string `json:"hostnqn"`
}

var nvmfSubsystemGetControllers = register[NVMfSubsystemParams, []SubsystemControllerInfo]("nvmf_subsystem_get_controllers")

// NVMfSubsystemGetControllers lists the hosts that are connected to a subsystem.
func NVMfSubsystemGetControllers(ctx context.Context, c Caller, p NVMfSubsystemParams) ([]SubsystemControllerInfo, error) {
	return nvmfSubsystemGetControllers.call(ctx, c, p)
}

// NVMfTransportParams describes a transport.
type NVMfTransportParams struct {
	// Trtype is TCP.
	Trtype string `json:"trtype"`
	// KAS is the granularity of keep-alive timeouts in units of 100 ms.
	KAS int `json:"kas"`
	// MinKATO is the least keep-alive timeout in milliseconds; SPDK rounds it up to KAS.
	MinKATO int `json:"min_kato"`
}

var nvmfCreateTransport = register[NVMfTransportParams, bool]("nvmf_create_transport")

// NVMfCreateTransport makes a transport.
func NVMfCreateTransport(ctx context.Context, c Caller, p NVMfTransportParams) error {
	return nvmfCreateTransport.do(ctx, c, p)
}

var nvmfGetTransports = register[NoParams, []NVMfTransportParams]("nvmf_get_transports")

// NVMfGetTransports lists the transports.
func NVMfGetTransports(ctx context.Context, c Caller) ([]NVMfTransportParams, error) {
	return nvmfGetTransports.call(ctx, c, NoParams{})
}
