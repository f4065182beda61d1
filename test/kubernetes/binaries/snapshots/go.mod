module github.com/holdfast-csi/holdfast/test/kubernetes/binaries/snapshots

go 1.26.8

require github.com/kubernetes-csi/external-snapshotter/client/v8 v8.6.0
