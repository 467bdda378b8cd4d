#!/usr/bin/env bash
# musl-toolchain.sh [x86_64|aarch64]
#
# Sets up what a fully static build needs and the development machine does not have, into one folder outside the tree;
# its last line names the folder. A second run with nothing changed returns at once.
#   - A Rust compiler with the source of its standard library, which is built along with the agent: rustup's, where rustup
#     can add the source and the target; elsewhere Debian's rustc-web, cargo-web and rust-web-src.
#   - musl's headers for the C libraries, and its libraries for the second way: musl-dev of Debian 13, unpacked, not
#     installed. Debian 12's musl 1.2.3 cannot ask a name server again over TCP.
#   - bin/musl-cc compiles C against these headers; bin/link-gcc links (rustc tells the kind of a linker by its name).
# What is downloaded comes through apt, which checks it against Debian's signed lists, or through rustup.
#
#   CRONIUM_MUSL_DIR     the folder (default: ~/.cache/cronium-agent/musl-ARCH)
#   CRONIUM_MUSL_FROM    rustup or debian (default: rustup if it has what is needed, else debian)
#   CRONIUM_MUSL_SUITE   Debian's release for musl-dev (default: trixie)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ARCH=${1:-x86_64}
case $ARCH in
    x86_64) DEB=amd64 CROSS=(gcc) MACHINE=() LINK=-z,pack-relative-relocs ;;
    # Debian 12's ld cannot pack relative relocations for this machine: the file is a tenth larger.
    aarch64) DEB=arm64 CROSS=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross) MACHINE=(-mno-outline-atomics) LINK= ;;
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *) die "unknown machine '$ARCH': x86_64 or aarch64" ;;
esac
GNU=$ARCH-linux-gnu MUSL=$ARCH-linux-musl TARGET=$ARCH-unknown-linux-musl
DIR=${CRONIUM_MUSL_DIR:-$CACHE/musl-$ARCH}
SUITE=${CRONIUM_MUSL_SUITE:-trixie}

# rustup_has_it: rustup's cargo is the one in use, new enough, and has the target and the source, or can add them.
rustup_has_it() {
    local need
    need=$(awk -F'"' '/^rust-version *=/ {print $2; exit}' "$ROOT/Cargo.toml")
    command -v rustup >/dev/null 2>&1 && at_least "$need" "$(cargo_version)" || return 1
    if rustup target list --installed 2>/dev/null | grep -qx "$TARGET" &&
        rustup component list --installed 2>/dev/null | grep -qx rust-src; then
        return 0
    fi
    say "rustup target add $TARGET; rustup component add rust-src"
    timeout 300 rustup target add "$TARGET" >/dev/null 2>&1 && timeout 300 rustup component add rust-src >/dev/null 2>&1
}

choose() {
    FROM=${CRONIUM_MUSL_FROM:-}
    case $FROM in
        '') if rustup_has_it; then FROM=rustup; else FROM=debian; fi ;;
        rustup) rustup_has_it || die "rustup cannot add $TARGET and rust-src; CRONIUM_MUSL_FROM=debian builds without it" ;;
        debian) ;;
        *) die "CRONIUM_MUSL_FROM=$FROM: rustup or debian" ;;
    esac
    [ "$FROM" = rustup ] || need_packages "a Rust compiler with the source of its standard library" rustc-web cargo-web rust-web-src
    need_packages "the C compiler and linker of the static build" "${CROSS[@]}" make perl
    if [ "$FROM" = rustup ]; then RUSTC=$(rustup which rustc); else RUSTC=/usr/bin/rustc; fi
}

# unpack PACKAGE...: of the side list's suites, for $DEB, into $SCRATCH/x. The machine's own lists stay as they are.
unpack() {
    local source=/etc/apt/sources.list.d/debian.sources uri suite file
    if [ -f "$source" ]; then
        uri=$(awk '/^URIs:/ {print $2; exit}' "$source")
    else
        uri=$(awk '$1 == "deb" {for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) {print $i; exit}}' /etc/apt/sources.list)
    fi
    [ -n "$uri" ] || die "no Debian mirror is set up on this machine: musl-dev of $SUITE cannot be had"
    mkdir -p "$SCRATCH"/{lists/partial,cache/archives/partial,dl,x}
    for suite in "$SUITE" bookworm; do
        echo "deb [arch=$DEB signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main"
    done >"$SCRATCH/side.list"
    local side=(-q -o Dir::Etc::sourcelist="$SCRATCH/side.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::State::lists="$SCRATCH/lists" -o Dir::Cache="$SCRATCH/cache" -o APT::Sandbox::User=root
        -o Acquire::Languages=none -o APT::Architectures::=amd64 -o "APT::Architectures::=$DEB")
    (
        cd "$SCRATCH/dl"
        timeout 300 apt-get "${side[@]}" update >"$SCRATCH/apt.log" 2>&1 &&
            timeout 300 apt-get "${side[@]}" download "$@" >>"$SCRATCH/apt.log" 2>&1
    ) || {
        tail -n 5 "$SCRATCH/apt.log" >&2
        die "apt could not download $*"
    }
    for file in "$SCRATCH"/dl/*.deb; do dpkg-deb -x "$file" "$SCRATCH/x"; done
}

# Debian's compiler bundles nothing for musl: every object and library that rustc's link line for musl names goes into
# one folder. The unwinder is Debian's, made for glibc; panics need nothing of it that musl lacks.
fill_lib() {
    local object
    mkdir -p "$SCRATCH/new/lib"
    cp "$SCRATCH/x/usr/lib/$MUSL"/{Scrt1.o,crt1.o,rcrt1.o,crti.o,crtn.o,lib*.a} "$SCRATCH/new/lib/"
    for object in crtbegin.o crtbeginS.o crtend.o crtendS.o; do
        cp "$("$GNU-gcc" -print-file-name="$object")" "$SCRATCH/new/lib/"
    done
    cp "$SCRATCH/x/usr/lib/llvm-14/lib/libunwind.a" "$SCRATCH/new/lib/"
    # It prints its last words through names that only glibc has.
    cat >"$SCRATCH/chk.c" <<'EOF'
#include <stdarg.h>
#include <stdio.h>
int __fprintf_chk(FILE *file, int flag, const char *format, ...);
int __fprintf_chk(FILE *file, int flag, const char *format, ...)
{
    va_list list;
    int count;
    (void)flag;
    va_start(list, format);
    count = vfprintf(file, format, list);
    va_end(list);
    return count;
}
EOF
    "$GNU-gcc" -nostdinc -isystem "$SCRATCH/new/include" -isystem "$("$GNU-gcc" -print-file-name=include)" \
        -Os -fPIC -fno-ident -c "$SCRATCH/chk.c" -o "$SCRATCH/chk.o"
    "$GNU-ar" rD "$SCRATCH/new/lib/libunwind.a" "$SCRATCH/chk.o" 2>/dev/null
}

write_wrappers() {
    local bin=$SCRATCH/new/bin
    mkdir -p "$bin"
    # No unwind tables: no C function here calls back into Rust code that may unwind through it.
    cat >"$bin/musl-cc" <<EOF
#!/bin/sh
# Compiles C for $TARGET: musl's headers and the compiler's own, no others.
exec $GNU-gcc -nostdinc -isystem '$DIR/include' -isystem '$("$GNU-gcc" -print-file-name=include)' \\
    -fstack-protector-strong -fno-asynchronous-unwind-tables -fno-ident ${MACHINE[*]} "\$@"
EOF
    # rustc knows static position-independent programs on x86_64 only; elsewhere its link line is for a fixed address.
    # With Debian's compiler the start files come by their bare names.
    cat >"$bin/link-gcc" <<EOF
#!/bin/bash
# Links for $TARGET. CRONIUM_LINK_MAP: where to write the link map.
args=()
for arg; do
    case \$arg in
        -static | -no-pie | -static-pie) continue ;;
        */crt1.o | crt1.o) arg=\${arg%crt1.o}rcrt1.o ;;
        */crtbegin.o | crtbegin.o | */crtend.o | crtend.o) arg=\${arg%.o}S.o ;;
    esac
    case \$arg in
        */*) ;;
        *crt*.o) [ ! -e "$DIR/lib/\$arg" ] || arg=$DIR/lib/\$arg ;;
    esac
    args+=("\$arg")
done
exec $GNU-gcc -static-pie "\${args[@]}" -L'$DIR/lib' -Wl,-z,noexecstack,-z,relro,-z,now,--build-id=none${LINK:+,$LINK} \\
    \${CRONIUM_LINK_MAP:+-Wl,-Map="\$CRONIUM_LINK_MAP"}
EOF
    chmod 755 "$bin"/*
}

choose
WANTED="$(sha256sum <"${BASH_SOURCE[0]}") $FROM $SUITE $("$RUSTC" -V) $("$GNU-gcc" -dumpfullversion) $DIR"
if [ "$(cat "$DIR/stamp" 2>/dev/null)" != "$WANTED" ]; then
    make_scratch
    say "musl toolchain for $ARCH, Rust from $FROM: $DIR"
    packages=("musl-dev:$DEB/$SUITE")
    [ "$FROM" = rustup ] || packages+=("libunwind-14-dev:$DEB")
    unpack "${packages[@]}"
    mkdir -p "$SCRATCH/new"
    cp -a "$SCRATCH/x/usr/include/$MUSL" "$SCRATCH/new/include"
    [ "$FROM" = rustup ] || fill_lib
    write_wrappers
    {
        "$RUSTC" -V
        "$GNU-gcc" --version | head -n 1
        (cd "$SCRATCH/dl" && sha256sum -- *.deb)
    } >"$SCRATCH/new/VERSIONS"
    printf 'RUSTC=%q\nCARGO=%q\n' "$RUSTC" "$(dirname "$RUSTC")/cargo" >"$SCRATCH/new/env"
    echo "$WANTED" >"$SCRATCH/new/stamp"
    mkdir -p "$(dirname "$DIR")"
    rm -rf "$DIR"
    cp -a "$SCRATCH/new" "$DIR"
fi
echo "$DIR"
