package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// authority issues the cluster's certificates, for a day.
type authority struct {
	dir    string // where the files go
	cert   *x509.Certificate
	der    []byte // of the certificate
	key    *ecdsa.PrivateKey
	serial int64
}

func newAuthority(dir string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &authority{dir: dir, key: key, serial: 1}
	a.cert = a.template(pkix.Name{CommonName: "cluster"})
	a.cert.IsCA, a.cert.BasicConstraintsValid, a.cert.KeyUsage = true, true, x509.KeyUsageCertSign
	if a.der, err = x509.CreateCertificate(rand.Reader, a.cert, a.cert, &key.PublicKey, key); err != nil {
		return nil, err
	}
	return a, a.write("ca.crt", "CERTIFICATE", a.der)
}

func (a *authority) template(subject pkix.Name) *x509.Certificate {
	a.serial++
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: subject, NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(24 * time.Hour),
	}
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) write(name, kind string, der []byte) error {
	if err := os.WriteFile(a.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		return fmt.Errorf("write the cluster's certificates: %w", err)
	}
	return nil
}

// issue writes name.crt and name.key for a user of groups, who may be a server at the addresses too.
func (a *authority) issue(name, user string, groups []string, addresses ...string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf := a.template(pkix.Name{CommonName: user, Organization: groups})
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, address := range addresses {
		leaf.IPAddresses = append(leaf.IPAddresses, net.ParseIP(address))
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return err
	}
	if err := a.write(name+".crt", "CERTIFICATE", der); err != nil {
		return err
	}
	return a.writeKey(name, key)
}

func (a *authority) writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return a.write(name+".key", "EC PRIVATE KEY", der)
}

// signingKey writes name.key and name.pub, for the tokens of service accounts.
func (a *authority) signingKey(name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	if err := a.write(name+".pub", "PUBLIC KEY", der); err != nil {
		return err
	}
	return a.writeKey(name, key)
}

// kubeconfig issues a certificate to the user and writes name.kubeconfig with it.
func (a *authority) kubeconfig(name, user string, groups ...string) error {
	if err := a.issue(name, user, groups); err != nil {
		return err
	}
	content := map[string][]byte{}
	for _, file := range []string{name + ".crt", name + ".key"} {
		body, err := os.ReadFile(a.path(file))
		if err != nil {
			return err
		}
		content[file] = body
	}
	return a.writeKubeconfig(name, &clientcmdapi.AuthInfo{ClientCertificateData: content[name+".crt"], ClientKeyData: content[name+".key"]})
}

// writeKubeconfig writes name.kubeconfig, which has what the user proves itself with inside.
func (a *authority) writeKubeconfig(name string, user *clientcmdapi.AuthInfo) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["cluster"] = &clientcmdapi.Cluster{
		Server: serverURL, CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.der}),
	}
	config.AuthInfos["user"] = user
	config.Contexts["context"] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: "user"}
	config.CurrentContext = "context"
	return clientcmd.WriteToFile(*config, a.path(name+".kubeconfig"))
}
