#!/usr/bin/env bash
# size.sh [x86_64|aarch64] [--check]
# size.sh --source
#
# What the static binary is made of: bytes of each C library, by the link map, and of each Rust crate, by its symbols.
# Builds it if it is not there (scripts/build-static.sh).
#   --check   fails when the binary is larger than the README says ("static binary: N.N MB")
#   --source  what there is to read, without a build: lines of code and files of each folder of src, files over 400 lines,
#             functions over 60, import circles between files, crates. Blank lines, comments and tests are not counted.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ARCH=x86_64 CHECK='' SOURCE=''
for argument; do
    case $argument in
        x86_64 | aarch64) ARCH=$argument ;;
        --check) CHECK=1 ;;
        --source) SOURCE=1 ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) die "unknown argument '$argument': see --help" ;;
    esac
done
cd "$ROOT"
if [ -n "$SOURCE" ]; then
    python3 scripts/size_source.py "$ROOT"
    # What cargo compiles into the agent, or runs to write code of it; without the agent itself.
    crates() {
        cargo tree --locked -e normal --target x86_64-unknown-linux-musl --prefix none "$@" |
            sed 's/ (.*//' | sort -u | grep -vc '^cronium-agent '
    }
    printf '\ncrates: %d direct, %d in all\n' "$(crates --depth 1)" "$(crates)"
    exit 0
fi
TARGET=$ARCH-unknown-linux-musl
VERSION=$(awk -F'"' '/^version *=/ {print $2; exit}' Cargo.toml)
FILE=dist/cronium-agent-$VERSION-$TARGET
BUILT=target/static/$TARGET/release
if [ ! -f "$FILE" ] || [ ! -f "$BUILT/link.map" ]; then scripts/build-static.sh "$ARCH"; fi
SIZE=$(stat -c %s "$FILE")

# Sections that are in the file: the map names every input section that was kept, with its size and where it came from.
by_map() {
    perl -ne '
        BEGIN { $on = 0; $out = "" }
        $on = 1 if /^Linker script and memory map/;
        next unless $on;
        $out = $1 if /^(\.\S+)/;
        next if $out =~ /^\.(debug|comment|symtab|strtab|shstrtab|bss|tbss)/;
        next unless /^ (?:\S+)?\s+0x[0-9a-f]{8,}\s+0x([0-9a-f]+)\s+(\S.*)$/;
        my ($size, $from) = (hex $1, $2);
        $from = $from =~ m{([^/]+?)(?:-[0-9a-f]{16})?\.rlib\(} ? $1
              : $from =~ m{([^/]+)\.a\(} ? $1
              : $from =~ m{cronium_agent.*rcgu\.o$} ? "rust"
              : "start files, unwind index";
        $sum{$from} += $size;
        END { print "$sum{$_}\t$_\n" for keys %sum }
    ' "$BUILT/link.map"
}

# The Rust part is one object after link-time optimization: its symbols tell the crates; generic code counts for the
# crate whose function it is. Strings, tables and unwind data have no symbol.
by_crate() {
    "$ARCH-linux-gnu-nm" -C -S -t d "$BUILT/cronium-agent" | perl -ne '
        next unless /^\d+ (\d+) [tTrRdDwW] (.+)$/;
        my ($size, $name) = ($1, $2);
        next unless $name =~ /::/;
        $name =~ s/^[<&*(\[]+(?:dyn |mut |const )*//;
        my ($crate) = $name =~ /^[^:]* as (?:&|mut |dyn )*(\w+)::/ ? $1 : $name =~ /^(\w+)::/ or next;
        $crate = "std" if $crate =~ /^(std|core|alloc|compiler_builtins|addr2line|gimli|object|miniz_oxide|hashbrown|rustc_demangle)$/;
        $sum{$crate} += $size;
        END { print "$sum{$_}\t$_\n" for keys %sum }
    '
}

row() { awk -F'\t' -v all="$SIZE" '{printf "%9d  %5.1f %%  %s\n", $1, 100 * $1 / all, $2}'; }

make_scratch
by_map | sed -e 's/\tlibopenssl_sys$/\tOpenSSL (libcrypto)/' -e 's/\tliblibssh2_sys$/\tlibssh2/' -e 's/\tliblibz_sys$/\tzlib/' \
    -e 's/\tlibring$/\tring (C and assembly)/' -e 's/\tlibc$/\tmusl/' -e 's/\tlibunwind$/\tunwinder/' \
    -e 's/\tlibcompiler_builtins$/\tcompiler built-ins/' -e 's/\trust$/\tRust/' | sort -rn >"$SCRATCH/parts"
by_crate | sort -rn >"$SCRATCH/crates"
NAMED=$(awk '{n += $1} END {print n + 0}' "$SCRATCH/crates")
RUST=$(awk -F'\t' '$2 == "Rust" {print $1}' "$SCRATCH/parts")
if [ -z "$RUST" ] || [ "$NAMED" -eq 0 ]; then die "the link map or the symbols of $BUILT cannot be read"; fi
echo "$FILE: $SIZE bytes"
echo
row <"$SCRATCH/parts"
echo
echo "Rust, by crate:"
head -n 20 "$SCRATCH/crates" | row
awk 'NR > 20 {n += $1} END {print n + 0 "\tfurther crates"}' "$SCRATCH/crates" | row
printf '%d\tstrings, tables, unwind data\n' $((RUST - NAMED)) | row

[ -n "$CHECK" ] || exit 0
LIMIT=$(grep -oE 'static binary: [0-9]+\.[0-9]+ MB' README.md | grep -oE '[0-9]+\.[0-9]+' | head -n 1) ||
    die 'README.md has no line "static binary: N.N MB"'
awk -v size="$SIZE" -v limit="$LIMIT" 'BEGIN {exit !(size <= limit * 1000000)}' ||
    die "the binary has $SIZE bytes, the README says $LIMIT MB: make it smaller, or say so in the README and why"
say "$SIZE bytes are within the README's $LIMIT MB"
