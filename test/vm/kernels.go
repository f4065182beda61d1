package vm

import (
	"io/fs"
	"path/filepath"
	"strings"
)

// Kernel is one that a guest can run.
type Kernel int

// Kernels. All share the guest's tools.
const (
	// Stock is the kernel of Debian 12, 6.1.
	Stock Kernel = iota
	// Authenticating is the 6.12 of Debian 12's security archive, which has DH-HMAC-CHAP (CONFIG_NVME_HOST_AUTH).
	Authenticating
)

// metaPackage names the kernel's package by depending on it.
func (k Kernel) metaPackage() string {
	if k == Authenticating {
		return "linux-image-6.12-cloud-amd64"
	}
	return "linux-image-cloud-amd64"
}

// dir is where the kernel, and the image with its modules, are kept.
func (k Kernel) dir(cache string) string {
	if k == Authenticating {
		return filepath.Join(cache, "authenticating")
	}
	return cache
}

// images are what the guest starts with, one on top of the other: that of the stock kernel has the tools.
func (k Kernel) images(cache string) []string {
	images := []string{imageFile(cache)}
	if k != Stock {
		images = append(images, imageFile(k.dir(cache)))
	}
	return images
}

// modules decompresses the modules of a kernel that has them compressed, for their dependencies are read from them.
func (p preparation) modules() error {
	var compressed []string
	err := filepath.WalkDir(p.rootDir(), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".ko.xz") {
			compressed = append(compressed, path)
		}
		return err
	})
	if err != nil || len(compressed) == 0 {
		return err
	}
	p.say("decompressing %d modules", len(compressed))
	_, err = p.command("", "xz", append([]string{"--decompress"}, compressed...)...)
	return err
}
