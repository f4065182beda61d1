// Package gateway lets others reach an SPDK process over the network: it passes JSON-RPC
// between mutual-TLS connections and SPDK's Unix socket, which has no authentication of
// its own.
//
// Only the methods on its list pass. Each request is taken apart and put together again
// before it goes on, so that nothing reaches SPDK that was read differently here, such as
// an object with two members "method". Each client has its own connection to SPDK: their
// requests cannot be mixed up, and one that fails takes no other along.
package gateway
