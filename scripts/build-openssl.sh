#!/usr/bin/env bash
# build-openssl.sh x86_64|aarch64
#
# Builds the part of OpenSSL that libssh2 calls, for the static binary, from the source in the locked crate openssl-src.
# The crate's own build makes all of OpenSSL, 3.8 MB of the binary; this one leaves 1.0 MB. What stays: RSA, ECDSA,
# Ed25519, X25519, ML-KEM, AES, SHA-1/2/3, MD5 (old key files), HMAC, PBKDF2, the random generator, reading keys from PEM.
# scripts/openssl-prune.pl says how. Prints a folder with include/ and lib/, outside the tree; the same input is not built
# twice.
#
#   CRONIUM_MUSL_DIR      what scripts/musl-toolchain.sh made
#   CRONIUM_OPENSSL_DIR   where the results are kept (default: ~/.cache/cronium-agent/openssl)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ARCH=${1:-}
case $ARCH in
    x86_64) CONFIG=linux-x86_64 ;;
    aarch64) CONFIG=linux-aarch64 ;;
    *) die "which machine? x86_64 or aarch64" ;;
esac
MUSL_DIR=${CRONIUM_MUSL_DIR:-$CACHE/musl-$ARCH}
KEPT=${CRONIUM_OPENSSL_DIR:-$CACHE/openssl}
[ -x "$MUSL_DIR/bin/musl-cc" ] || die "no toolchain in $MUSL_DIR: run scripts/musl-toolchain.sh $ARCH"

# Switches of Configure. Whole families first, then single algorithms, then what only a program around OpenSSL needs:
# no configuration file, no engine and no module is ever looked for.
NO=(
    tls dtls quic srp srtp psk nextprotoneg ktls ssl-trace
    cmp cms ct ocsp ts rfc3779 http sock dgram sctp tfo comp zlib brotli zstd
    apps docs tests shared module dso engine dynamic-engine afalgeng capieng padlockeng legacy
    autoload-config ui-console err autoerrinit filenames trace async atexit
    thread-pool default-thread-pool secure-memory egd deprecated multiblock
    aria bf camellia cast chacha des gost idea poly1305 rc2 rc4 rc5 seed sm4 ocb siv
    blake2 cmac md4 mdc2 rmd160 siphash sm3 whirlpool argon2 scrypt
    dh dsa ec2m lms ml-dsa slh-dsa sm2
)

source_folder() {
    local manifest
    (cd "$ROOT" && cargo fetch --locked --quiet) || die "cargo fetch failed: is the crates registry reachable?"
    manifest=$(cd "$ROOT" && cargo metadata --locked --offline --all-features --format-version 1 |
        grep -o '"manifest_path":"[^"]*/openssl-src-[^"]*/Cargo.toml"' | cut -d'"' -f4)
    [ -n "$manifest" ] || die "Cargo.lock has no openssl-src"
    echo "$(dirname "$manifest")/openssl"
}

# The compiler as OpenSSL sees it, without a folder in its name: the name ends up in the library. OpenSSL asks the
# assembler's version to choose its code; the answer 2.25 means AVX2, but none of the 0.8 MB for AVX-512.
write_compiler() {
    mkdir -p "$SCRATCH/bin"
    cat >"$SCRATCH/bin/musl-cc" <<EOF
#!/bin/sh
case " \$* " in *' -Wa,-v '*) echo 'GNU assembler version 2.25' && exit ;; esac
exec '$MUSL_DIR/bin/musl-cc' "\$@"
EOF
    chmod 755 "$SCRATCH/bin/musl-cc"
}

build() {
    local log=$SCRATCH/log name options=()
    for name in "${NO[@]}"; do options+=("no-$name"); done
    cp -R "$SOURCE" "$SCRATCH/src"
    chmod -R u+w "$SCRATCH/src"
    perl "$ROOT/scripts/openssl-prune.pl" "$SCRATCH/src" >"$log" || die "the source could not be cut down"
    write_compiler
    (
        cd "$SCRATCH/src"
        export PATH=$SCRATCH/bin:$PATH SOURCE_DATE_EPOCH=0
        unset CFLAGS CPPFLAGS LDFLAGS MAKEFLAGS CROSS_COMPILE
        CC=musl-cc AR="$ARCH-linux-gnu-ar" RANLIB="$ARCH-linux-gnu-ranlib" perl ./Configure "$CONFIG" \
            --prefix=/nonexistent --openssldir=/nonexistent --libdir=lib "${options[@]}" \
            -Os -ffunction-sections -fdata-sections &&
            make -s -j "$(nproc)" build_generated libcrypto.a
    ) >>"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        die "OpenSSL could not be built"
    }
    # Of libssl the Rust binding calls one function, which for us is libcrypto's.
    cat >"$SCRATCH/ssl.c" <<'EOF'
#include <openssl/crypto.h>
int OPENSSL_init_ssl(uint64_t, const OPENSSL_INIT_SETTINGS *);
int OPENSSL_init_ssl(uint64_t options, const OPENSSL_INIT_SETTINGS *settings)
{
    return OPENSSL_init_crypto(options & ~(uint64_t)(0x00100000L | 0x00200000L), settings); /* LOAD_SSL_STRINGS, and not */
}
EOF
    "$SCRATCH/bin/musl-cc" -Os -fPIC -ffunction-sections -I"$SCRATCH/src/include" -c "$SCRATCH/ssl.c" -o "$SCRATCH/ssl.o"
    mkdir -p "$SCRATCH/out/lib"
    "$ARCH-linux-gnu-ar" rcsD "$SCRATCH/out/lib/libssl.a" "$SCRATCH/ssl.o"
    cp "$SCRATCH/src/libcrypto.a" "$SCRATCH/out/lib/"
    cp -R "$SCRATCH/src/include" "$SCRATCH/out/include"
}

SOURCE=$(source_folder)
KEY=$(cat "${BASH_SOURCE[0]}" "$ROOT/scripts/openssl-prune.pl" "$MUSL_DIR/VERSIONS" "$MUSL_DIR/bin/musl-cc" |
    cat - <(basename "$(dirname "$SOURCE")") | sha256sum | cut -c 1-16)
OUT=$KEPT/$ARCH-$KEY
if [ ! -d "$OUT" ]; then
    make_scratch
    warn "building OpenSSL for $ARCH: $OUT"
    build
    mkdir -p "$KEPT"
    rm -rf "$OUT.new"
    cp -R "$SCRATCH/out" "$OUT.new"
    mv -T "$OUT.new" "$OUT"
    warn "libcrypto.a: $(stat -c %s "$OUT/lib/libcrypto.a") bytes"
fi
echo "$OUT"
