package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Host is a machine that runs the node service.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=hfhost,categories=holdfast
// +kubebuilder:printcolumn:name="Machine",type=string,JSONPath=`.spec.machineID`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Host struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec HostSpec `json:"spec"`
}

// HostList is a list of Hosts.
//
// +kubebuilder:object:root=true
type HostList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Host `json:"items"`
}

// HostSpec is the record. It is the driver's.
type HostSpec struct {
	// MachineID tells two machines of one name apart (machine-id(5)).
	MachineID string `json:"machineID"`
}

// SPDKNode is an SPDK node: where it is, and what is wanted of it. It may be made by hand, to tell the driver of a node, or by the driver, to
// show one that its configuration file names.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=spdknodes,shortName=hfn,categories=holdfast
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Cordoned",type=boolean,JSONPath=`.spec.cordoned`
// +kubebuilder:printcolumn:name="Zone",type=string,JSONPath=`.status.zone`
// +kubebuilder:printcolumn:name="Free",type=string,JSONPath=`.status.free`
// +kubebuilder:printcolumn:name="Of",type=string,JSONPath=`.status.size`
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.status.address`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type SPDKNode struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SPDKNodeSpec   `json:"spec,omitempty"`
	Status SPDKNodeStatus `json:"status,omitempty"`
}

// SPDKNodeList is a list of SPDKNodes.
//
// +kubebuilder:object:root=true
type SPDKNodeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SPDKNode `json:"items"`
}

// SPDKNodeSpec is what an operator says of an SPDK node. Where it is counts with --spdk-nodes=kube alone.
//
// +kubebuilder:validation:XValidation:rule="has(self.rpc) == has(self.nvmf)",message="rpc and nvmf belong together: say both, or neither for a node of the configuration file"
type SPDKNodeSpec struct {
	// RPC is where its JSON-RPC is reached: unix:///path, or tls://host:port of its gateway.
	// +kubebuilder:validation:Pattern=`^(unix:///.+|tls://.+:[0-9]+)$`
	RPC string `json:"rpc,omitempty"`
	// NVMf is the IP:port where its NVMe/TCP target is to listen.
	// +kubebuilder:validation:Pattern=`^.+:[0-9]{1,5}$`
	NVMf string `json:"nvmf,omitempty"`
	// Host is the node of Kubernetes on the same machine; default is the resource's name.
	Host string `json:"host,omitempty"`
	// Zone is its failure domain, and a topology segment.
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$`
	Zone string `json:"zone,omitempty"`
	// Labels are what the nodeSelector parameter of a StorageClass looks at.
	Labels map[string]string `json:"labels,omitempty"`
	// LvStores are the lvstores to use; default all.
	LvStores []string `json:"lvstores,omitempty"`
	// ClearMethod is how the clusters of deleted replicas are cleared; default write_zeroes.
	// +kubebuilder:validation:Enum=write_zeroes;unmap
	ClearMethod string `json:"clearMethod,omitempty"`
	// Cordoned keeps new replicas, raid hosts and standbys away from the node. What is there stays.
	Cordoned bool `json:"cordoned,omitempty"`
}

// SPDKNodeStatus is what is shown of an SPDK node.
type SPDKNodeStatus struct {
	// Address is where its NVMe/TCP target listens, IP:port.
	Address string `json:"address,omitempty"`
	Zone    string `json:"zone,omitempty"`
	// Free and Size are those of all its lvstores that are used, as quantities.
	Free     string          `json:"free,omitempty"`
	Size     string          `json:"size,omitempty"`
	LvStores []LvStoreStatus `json:"lvstores,omitempty"`
	// Conditions is Ready: the node answers.
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// LvStoreStatus is one lvstore of an SPDK node.
type LvStoreStatus struct {
	Name      string `json:"name"`
	FreeBytes int64  `json:"freeBytes"`
	SizeBytes int64  `json:"sizeBytes"`
}

// ConditionReady is the condition of an SPDKNode that answers.
const ConditionReady = "Ready"
