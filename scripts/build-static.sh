#!/usr/bin/env bash
# build-static.sh [x86_64|aarch64] [--check-reproducible]
#
# Builds dist/cronium-agent-VERSION-TARGET and its .sha256: one file, fully static, position-independent, with TLS and
# SSH in it, for any Linux since 4.18. Then looks whether it is all that, and runs it in an empty folder as its root.
# Sets up what it needs by itself (scripts/musl-toolchain.sh, scripts/build-openssl.sh), outside the tree.
#   --check-reproducible   builds twice more, from nothing, in two other folders, and compares the bytes
# target/static/TARGET/release/ keeps the program with its symbols, and the link map, for scripts/size.sh.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ARCH=x86_64 TWICE=
while [ $# -gt 0 ]; do
    case $1 in
        x86_64 | aarch64) ARCH=$1 ;;
        --check-reproducible) TWICE=1 ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) die "unknown argument '$1': see --help" ;;
    esac
    shift
done
cd "$ROOT"
TARGET=$ARCH-unknown-linux-musl
VERSION=$(awk -F'"' '/^version *=/ {print $2; exit}' Cargo.toml)
FILE=dist/cronium-agent-$VERSION-$TARGET
export CRONIUM_MUSL_DIR=${CRONIUM_MUSL_DIR:-$CACHE/musl-$ARCH}
export CARGO_TARGET_DIR=$ROOT/target/static
BUILT=$CARGO_TARGET_DIR/$TARGET/release
make_scratch

source_facts

# With the flags that keep folder names out they are all there are; target/static/TARGET/release/flags has them, for a
# release's provenance.
RUST_FLAGS='-Ctarget-feature=+crt-static -Crelocation-model=pic'
CARGO_FLAGS=(build --release --locked --target "$TARGET" -p cronium-agent --features vendored-openssl
    '-Zbuild-std=std,panic_unwind' -Zbuild-std-features=)

# Folder names of this machine stay out of the program. Of several prefixes that fit, rustc takes the last.
remaps() {
    local home=${CARGO_HOME:-$HOME/.cargo} folder library
    printf ' --remap-path-prefix=%s' "$ROOT=/build" "$CARGO_TARGET_DIR=/target" "$home=/cargo"
    for folder in "$home"/registry/src/*/; do printf ' --remap-path-prefix=%s' "${folder%/}=/crates"; done
    library=$("$RUSTC" --print sysroot)/lib/rustlib/src/rust/library
    printf ' --remap-path-prefix=%s' "$(readlink -f "$library")=/rust/library" "$library=/rust/library"
}

build() {
    local openssl under=${TARGET//-/_}
    scripts/musl-toolchain.sh "$ARCH"
    # shellcheck disable=SC1091 # RUSTC and CARGO
    . "$CRONIUM_MUSL_DIR/env"
    openssl=$(scripts/build-openssl.sh "$ARCH")
    mkdir -p "$BUILT"
    say "building the agent for $TARGET with $("$RUSTC" -V)"
    # The standard library is built too, without the code that turns addresses into names: the program has no names, and
    # that code is 0.25 MB. A release compiler does this only when told that its user knows: RUSTC_BOOTSTRAP.
    env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u CFLAGS RUSTC="$RUSTC" RUSTC_BOOTSTRAP=1 \
        "CC_$under=$CRONIUM_MUSL_DIR/bin/musl-cc" "AR_$under=$ARCH-linux-gnu-ar" "RANLIB_$under=$ARCH-linux-gnu-ranlib" \
        "CARGO_TARGET_${under^^}_LINKER=$CRONIUM_MUSL_DIR/bin/link-gcc" \
        "CARGO_TARGET_${under^^}_RUSTFLAGS=$RUST_FLAGS$(remaps)" \
        CRONIUM_LINK_MAP="$BUILT/link.map" CARGO_PROFILE_RELEASE_STRIP=none \
        OPENSSL_NO_VENDOR=1 OPENSSL_STATIC=1 OPENSSL_LIB_DIR="$openssl/lib" OPENSSL_INCLUDE_DIR="$openssl/include" \
        "$CARGO" "${CARGO_FLAGS[@]}"
    printf '%s\n' "RUSTFLAGS=$RUST_FLAGS" "cargo ${CARGO_FLAGS[*]}" >"$BUILT/flags"
    mkdir -p dist
    "$ARCH-linux-gnu-strip" --strip-all --remove-section=.comment -o "$FILE" "$BUILT/cronium-agent"
    (cd dist && sha256sum "$(basename "$FILE")" >"$(basename "$FILE").sha256")
}

# refuse WHY COMMAND...: the check fails if COMMAND succeeds; demand: if it does not.
BAD=0
refuse() { ! "${@:2}" >/dev/null || { warn "  FAILED: $1"; BAD=$((BAD + 1)); }; }
demand() { "${@:2}" >/dev/null || { warn "  FAILED: $1"; BAD=$((BAD + 1)); }; }

check() {
    local elf=$SCRATCH/elf empty=$SCRATCH/empty run=(/cronium-agent) said name
    readelf -hldW "$FILE" >"$elf"
    demand "is not position-independent (type DYN)" grep -q 'Type: *DYN' "$elf"
    demand "does not say that it is a PIE" grep -q 'FLAGS_1.*PIE' "$elf"
    refuse "wants an interpreter" grep -q 'INTERP' "$elf"
    refuse "wants shared libraries" grep -q '(NEEDED)' "$elf"
    demand "has no read-only relocations (GNU_RELRO)" grep -q 'GNU_RELRO' "$elf"
    demand "has no stack header, or an executable stack" grep -Eq 'GNU_STACK .* RW +0x' "$elf"
    refuse "has a segment to write and execute" grep -Eq 'LOAD .* RWE ' "$elf"
    refuse "relocates its code (TEXTREL)" grep -q 'TEXTREL' "$elf"
    for name in "$ROOT" "${CARGO_HOME:-$HOME/.cargo}" "$CACHE" "$HOME/"; do
        [ "$name" = / ] || refuse "names the folder $name" grep -qaF -- "$name" "$FILE"
    done
    mkdir "$empty"
    cp "$FILE" "$empty/cronium-agent"
    if [ "$(uname -m)" != "$ARCH" ]; then
        need_packages "to run a program for $ARCH here" qemu-user-static
        cp "/usr/bin/qemu-$ARCH-static" "$empty/qemu"
        run=(/qemu /cronium-agent)
    fi
    said=$(as_root timeout 60 chroot "$empty" "${run[@]}" version) || said=
    demand "does not run in an empty folder, or does not say its target" grep -q "^target: $TARGET\$" <<<"$said"
    [ "$BAD" -eq 0 ] || die "$FILE: $BAD checks failed"
    printf '%s\n' "$said"
    say "$FILE: $(stat -c %s "$FILE") bytes, static-pie, RELRO, no executable stack, runs in an empty folder"
}

# Two copies of the tree without a past: own toolchain, OpenSSL, crates and target folders, names of different length.
check_reproducible() {
    local place copy
    for place in a a/much/longer/name; do
        copy=$SCRATCH/$place/tree
        mkdir -p "$copy" "$SCRATCH/$place/cargo/registry"
        git ls-files -z | tar --null -T - -cf - | tar -C "$copy" -xf -
        cp -R "${CARGO_HOME:-$HOME/.cargo}/registry"/{cache,index} "$SCRATCH/$place/cargo/registry/"
        say "--- again in $copy"
        env CARGO_HOME="$SCRATCH/$place/cargo" CRONIUM_MUSL_DIR="$SCRATCH/$place/musl" \
            CRONIUM_OPENSSL_DIR="$SCRATCH/$place/openssl" "$copy/scripts/build-static.sh" "$ARCH"
    done
    for place in a a/much/longer/name; do
        cmp "$FILE" "$SCRATCH/$place/tree/$FILE" || die "not reproducible: $FILE differs from the one built in $SCRATCH/$place"
    done
    say "reproducible: three builds in different folders, one sum: $(cut -c 1-64 "$FILE.sha256")"
}

build
check
[ -z "$TWICE" ] || check_reproducible
