#!/bin/sh
# Turns a Debian root filesystem into that of a node: kind.sh FOLDER KIND-MODULE
# The files come from the Go module of kind; this does what its images/base/Dockerfile does with them.
set -eu
root=$1 files=$2/images/base/files

mkdir -p "$root/kind/bin" "$root/kind/manifests" "$root/etc/containerd" "$root/etc/default" "$root/etc/sysctl.d" \
  "$root/etc/systemd/system/kubelet.service.d" "$root/etc/kubernetes/manifests" "$root/opt/cni/bin"
install -m 755 "$files/usr/local/bin/entrypoint" "$root/usr/local/bin/"
install -m 755 "$files"/kind/bin/* "$root/kind/bin/"
install -m 644 "$files/etc/containerd/config.toml" "$root/etc/containerd/"
install -m 644 "$files/etc/crictl.yaml" "$root/etc/"
install -m 644 "$files/etc/default/kubelet" "$root/etc/default/"
install -m 644 "$files"/etc/sysctl.d/* "$root/etc/sysctl.d/"
install -m 644 "$files"/etc/systemd/system/*.slice "$files"/etc/systemd/system/*.service "$root/etc/systemd/system/"
install -m 644 "$files"/etc/systemd/system/kubelet.service.d/* "$root/etc/systemd/system/kubelet.service.d/"
rm "$root/etc/systemd/system/containerd-fuse-overlayfs.service" # for rootless nodes, with a program of its own

# A container in the node may keep the OOM score of containerd: to lower it takes CAP_SYS_RESOURCE, which
# some machines withhold. kind itself does this in rootless nodes.
sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$root/etc/containerd/config.toml"

# Only what a node needs is started by systemd.
rm -f "$root"/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service \
  "$root"/lib/systemd/system/multi-user.target.wants/* "$root"/etc/systemd/system/*.wants/* \
  "$root"/lib/systemd/system/local-fs.target.wants/* "$root"/lib/systemd/system/sockets.target.wants/*udev* \
  "$root"/lib/systemd/system/sockets.target.wants/*initctl* "$root"/lib/systemd/system/basic.target.wants/*
echo ReadKMsg=no >> "$root/etc/systemd/journald.conf"
chroot "$root" systemctl enable kubelet.service containerd.service undo-mount-hacks.service
chroot "$root" systemctl mask systemd-binfmt.service
