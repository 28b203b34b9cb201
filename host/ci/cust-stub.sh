#!/usr/bin/env bash
# Builds the `cust` feature and its example on a machine without CUDA.
#
# cust links libcuda and its build script looks for a CUDA installation. A stub library with the driver's names is
# enough to build; it cannot run anything.
set -euo pipefail
cd "$(dirname "$0")/../.."

stub=target/cust-stub
mkdir -p "$stub/lib64" "$stub/include"
cargo fetch --quiet
raw=$(cargo metadata --format-version 1 --features oximla/cust |
    python3 -c 'import json,sys; print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "cust_raw"))')
grep -rhoE 'pub fn cu[A-Za-z0-9_]+' "$(dirname "$raw")" | sed 's/pub fn \(.*\)/int \1(void) { return 100; }/' |
    sort -u >"$stub/cuda.c"
cc -shared -fPIC -w -o "$stub/lib64/libcuda.so" "$stub/cuda.c"
touch "$stub/include/cuda.h"

export CUDA_LIBRARY_PATH="$PWD/$stub"
export LIBRARY_PATH="$PWD/$stub/lib64${LIBRARY_PATH:+:$LIBRARY_PATH}"
cargo build --release --package oximla --features cust --example decode_with_cust "$@"
