// Command livenessprobe stands in for the program of that name where there is no registry to have its image from: it serves on /healthz what
// a CSI driver answers to Probe, by the same flags. It is for tests alone.
package main

import (
	"context"
	"flag"
	"log"
	"net/http"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {
	driver := flag.String("csi-address", "", "socket of the driver")
	health := flag.String("http-endpoint", "", "address to serve /healthz on")
	timeout := flag.Duration("probe-timeout", time.Second, "how long the driver may take to answer")
	flag.Parse()
	conn, err := grpc.NewClient("unix://"+*driver, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe(*health, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), *timeout)
		defer cancel()
		answer, err := csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{})
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		case answer.GetReady() != nil && !answer.GetReady().GetValue():
			http.Error(w, "the driver is not ready", http.StatusServiceUnavailable)
		}
	})))
}
