# shellcheck shell=bash disable=SC2034
# Every version that the cluster from packages is made of.
K8S=v1.37.2
KIND=v0.33.0
CONTAINERD=v2.4.2
CNI=v1.9.1
ETCD=v3.7.3
COREDNS=v1.14.6
HELM=v4.3.1
# The simulated nodes of tests/bench/control_plane.py; no part of the cluster.
KWOK=v0.8.0
# Only tests of queues install it.
KUEUE=v0.19.2
# systemd newer than Debian 12's refuses cgroup v1, so nodes stay on it.
NODE_SUITE=bookworm
# The first Debian with torch >= 2.10.
IMAGE_SUITE=forky
