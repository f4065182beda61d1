// Package spdk talks to one SPDK process: the JSON-RPC connection (Client), SPDK's
// methods with typed parameters (one file for each SPDK module), and idempotent
// operations on the node that the process serves (Node).
//
// Everything above the connection works against Caller, so that a test or a fault
// injector can stand between. Every operation of Node reads state, compares and acts;
// after a crash at any point it is simply called again. Nothing is decided by the text
// of an error, because SPDK answers the same situation differently from call to call.
package spdk
