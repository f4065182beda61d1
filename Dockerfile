# The image of every Holdfast process: `controller`, `node` and `gateway` are subcommands of its one binary.
# test/image/build builds and tries this file without a registry; keep `go` in go.mod and GO_IMAGE equal.
ARG GO_IMAGE=golang:1.26.8-bookworm
ARG DEBIAN_IMAGE=debian:bookworm-20260824-slim

# The compiler runs on the builder's own architecture and cross-compiles: Go needs no emulation for that.
FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
ARG GOPROXY
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH
ARG VERSION=dev
RUN --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} \
    go build -trimpath \
      -ldflags "-s -w -X github.com/holdfast-csi/holdfast/driver.Version=${VERSION}" \
      -o /out/holdfast ./cmd/holdfast

FROM ${DEBIAN_IMAGE}
# What the node service runs: mkfs.ext4 e2fsck resize2fs dumpe2fs (e2fsprogs), mkfs.xfs xfs_growfs xfs_repair (xfsprogs),
# mount umount (mount), blkid fstrim (util-linux), modprobe (kmod), cryptsetup (cryptsetup-bin), dmsetup.
# xfsprogs also depends on Python and 36 MB of ICU, for the online scrubber alone. Neither belongs into a privileged
# container, so the scrubber is left out, its two dependencies with it, and the libraries of the rest are named here;
# dpkg still records xfsprogs, which is what vulnerability scanners read.
RUN set -eu; \
    apt-get update; \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
      cryptsetup-bin dmsetup e2fsprogs kmod mount util-linux \
      libdevmapper1.02.1 libedit2 libinih1 liburcu8; \
    mkdir /tmp/xfsprogs; cd /tmp/xfsprogs; \
    apt-get -o APT::Sandbox::User=root download xfsprogs; \
    dpkg --force-depends --path-exclude='*/xfs_scrub*' --install xfsprogs_*.deb; \
    cd /; rm -rf /tmp/xfsprogs /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig/* \
      /var/lib/dpkg/*-old /var/log/apt /var/log/*.log
COPY LICENSE /usr/share/doc/holdfast/LICENSE
COPY --from=build /out/holdfast /usr/local/bin/holdfast

ARG DEBIAN_IMAGE
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="holdfast" \
      org.opencontainers.image.description="CSI driver for replicated volumes on SPDK" \
      org.opencontainers.image.source="https://github.com/holdfast-csi/holdfast" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${DEBIAN_IMAGE}"

# The user stays root: the node service mounts, and opens /dev/nvme-fabrics. The chart runs the controller, which does
# neither, with runAsNonRoot.
ENTRYPOINT ["/usr/local/bin/holdfast"]
