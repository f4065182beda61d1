// Package kube keeps the records of volumes and snapshots as custom resources of Kubernetes (package v1alpha1), so that controllers and node
// services share them through the API server.
//
// Every read of a record asks the API server for its newest state. The one thing that is taken from a watch is the answer to Wishes, after
// which the record itself is read.
package kube

import (
	"context"
	"fmt"
	"net"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// DriverName is the driver in PersistentVolumes, LeaseName the lease that the leading controller holds.
const (
	DriverName = "csi.holdfast.dev"
	LeaseName  = "holdfast-controller"
)

const (
	// requestTimeout bounds one request to the API server.
	requestTimeout = 10 * time.Second
	// ackTimeout is after how long a connection whose peer acknowledges nothing is closed, so that the next request finds another API server.
	ackTimeout = 4 * time.Second
	// dialTimeout bounds the making of a connection, keepAlive is how often an idle one is probed.
	dialTimeout = 4 * time.Second
	keepAlive   = 15 * time.Second
)

// Config returns how the API server is reached: by a kubeconfig file, or, if that is "", as kubectl finds it, or else as a pod of the
// cluster.
func Config(kubeconfig string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	return ConfigOf(clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil))
}

// ConfigOf is Config for what kubectl's files and flags say.
func ConfigOf(loader clientcmd.ClientConfig) (*rest.Config, error) {
	c, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w; run in a pod with a service account, or name a file with --kubeconfig", err)
	}
	c.QPS = -1 // the API server's priority and fairness decide: a replica that fails must be on record in time
	c.UserAgent = rest.DefaultKubernetesUserAgent() + " holdfast"
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive, Control: limitAck}
	c.Dial = dialer.DialContext
	return c, nil
}

// Scheme returns the kinds that the driver reads and writes.
func Scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, corev1.AddToScheme, coordinationv1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err) // two kinds of one name, which no input can bring about
		}
	}
	return s
}

// mapper knows where the kinds are served, so that nothing has to be asked for.
func mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	for _, kind := range []string{"Volume", "Snapshot", "Host", "SPDKNode"} {
		m.Add(v1alpha1.GroupVersion.WithKind(kind), meta.RESTScopeRoot)
	}
	m.Add(corev1.SchemeGroupVersion.WithKind("PersistentVolume"), meta.RESTScopeRoot)
	for _, kind := range []string{"PersistentVolumeClaim", "Pod", "Event"} {
		m.Add(corev1.SchemeGroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	m.Add(coordinationv1.SchemeGroupVersion.WithKind("Lease"), meta.RESTScopeNamespace)
	return m
}

// NewClient returns a client that asks the API server for everything it reads, and that has writes with unknown fields refused: an API server
// whose CRDs are older than the driver would drop them without a word. Nothing is dialled before it is used.
func NewClient(c *rest.Config) (client.Client, error) {
	c = rest.CopyConfig(c)
	c.Timeout = requestTimeout
	kube, err := client.New(c, client.Options{Scheme: Scheme(), Mapper: mapper()})
	if err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	return client.WithFieldValidation(kube, metav1.FieldValidationStrict), nil
}

// Store is the records in an API server. It implements volume.Store.
type Store struct {
	client client.Client
	wishes *watch
}

var _ volume.Store = (*Store)(nil)

// New returns a store over a client; NewClient makes one.
func New(c client.Client) *Store { return &Store{client: c} }

// Open returns the store of an API server. With a node, the one whose node service it is for, what is wanted of that is watched until Close, so
// that Wishes costs nothing.
func Open(ctx context.Context, c *rest.Config, node string) (*Store, error) {
	kube, err := NewClient(c)
	if err != nil {
		return nil, err
	}
	s := New(kube)
	if node != "" {
		if s.wishes, err = watchNode(ctx, c, node); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Client returns the store's client.
func (s *Store) Client() client.Client { return s.client }

// Close ends the watch and waits for it.
func (s *Store) Close() {
	if s.wishes != nil {
		s.wishes.close()
	}
}
