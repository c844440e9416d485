#!/usr/bin/env bash
# Installs the system packages that are missing, through the package manager.
#
#   scripts/install-deps.sh build          a C and C++ compiler, and libclang for RocksDB's bindings
#   scripts/install-deps.sh build test     and Python's venv, rustfmt and clippy
#
# Prints nothing and needs no rights where everything is there.
set -euo pipefail

missing=()

need_build() {
    command -v cc >/dev/null && command -v c++ >/dev/null || missing+=(build-essential)
    have_libclang || missing+=(libclang-dev)
    command -v cargo >/dev/null || {
        echo "error: cargo not found: install a Rust toolchain first, see https://rustup.rs" >&2
        exit 1
    }
}

need_test() {
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
}

# Where bindgen looks: the loader's cache, LLVM's own folders, or where the environment points it.
have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    command -v ldconfig >/dev/null && ldconfig -p | grep -q 'libclang[-.0-9]*\.so' && return 0
    # Not libclang-cpp, which is another library and may be there without it.
    compgen -G '/usr/lib/llvm*/lib/libclang.so*' >/dev/null && return 0
    compgen -G '/usr/lib/llvm*/lib/libclang-[0-9]*.so*' >/dev/null && return 0
    PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null | grep -q 'libclang[-.0-9]*\.so'
}

install_packages() {
    [ ${#missing[@]} -gt 0 ] || return 0
    local command=(apt-get install -y --no-install-recommends "${missing[@]}")
    if ! command -v apt-get >/dev/null; then
        echo "error: missing: ${missing[*]} (Debian's names), and there is no apt-get here: install them first" >&2
        exit 1
    fi
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
            as_root=(sudo)
        else
            echo "error: missing packages; as root, run: apt-get update && ${command[*]}" >&2
            exit 1
        fi
    fi
    echo "installing: ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "${command[@]}"
}

# A minimal toolchain comes without these two.
install_components() {
    local component absent=()
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 || absent+=("${component/#fmt/rustfmt}")
    done
    [ ${#absent[@]} -gt 0 ] || return 0
    if ! command -v rustup >/dev/null; then
        echo "error: the Rust toolchain lacks ${absent[*]}, and there is no rustup here to add them" >&2
        exit 1
    fi
    rustup component add "${absent[@]}"
}

for what in "$@"; do
    "need_$what"
done
install_packages
for what in "$@"; do
    if [ "$what" = test ]; then install_components; fi
done
