#!/usr/bin/env bash
# build-images.sh [--base-from alpine|debootstrap] [--force]
#
# Makes the three images in which jobs run, from runtime-images/: cronium/runner:bash-alpine, :python-alpine and
# :node-alpine. The base is Alpine where a registry answers. Where none does, the base is made here, from the
# packages of this machine's own Debian mirror, and the same Dockerfiles are built on it.
#
# What is up to date is left alone: each image carries a hash of the files that it was made from.
#   --base-from KIND  insist on one kind of base
#   --force           build again, and make Debian bases anew (which picks up security updates)
# Debian bases are kept in ${XDG_CACHE_HOME:-~/.cache}/cronium-agent.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

CONTEXT=$ROOT/runtime-images
LANGUAGES=(bash python node)
ALPINE=$(awk -F= '/^ARG BASE=/ {print $2; exit}' "$CONTEXT/Dockerfile.bash")
# What a language needs on a Debian base; the Alpine names stand in its Dockerfile. perl-base is in every one.
declare -A PACKAGES=([bash]="curl jq" [python]="python3 python3-requests python3-aiohttp" [node]="nodejs")
declare -A RUNS=([bash]="bash perl curl jq" [python]="python3" [node]="node")

# --- The Debian base (runs as root) ------------------------------------------------------------------------------

# make_bases FOLDER LANGUAGE...: writes FOLDER/base-LANGUAGE.tar.gz.
make_bases() {
    local out=$1 suite work language
    shift
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    work=$(mktemp -d "${TMPDIR:-/var/tmp}/cronium-base.$$.XXXXXX")
    on_exit drop_trees "$work"
    chmod 755 "$work"
    say "debootstrap of $suite (log: $out/base.log)"
    make_core "$suite" "$work/core" >>"$out/base.log" 2>&1 || fail_base "$out"
    for language in "$@"; do
        say "Debian base for $language: ${PACKAGES[$language]}"
        cp -a "$work/core" "$work/$language"
        # shellcheck disable=SC2086 # a list of names
        add_packages "$work/$language" install ${PACKAGES[$language]} >>"$out/base.log" 2>&1 || fail_base "$out"
        tar -C "$work/$language" -c --numeric-owner --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' \
            --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude='./var/log/*' \
            --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' \
            --exclude='./usr/share/info/*' --exclude='./etc/resolv.conf' --exclude='./etc/hostname' . |
            gzip -1 >"$out/base-$language.tar.gz.new"
        mv "$out/base-$language.tar.gz.new" "$out/base-$language.tar.gz"
        rm -rf --one-file-system "${work:?}/$language"
    done
    # Under sudo the cache stays the caller's.
    [ -z "${SUDO_UID:-}" ] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$out"
}
fail_base() {
    tail -n 20 "$1/base.log" >&2
    die "the Debian base could not be made; the end of $1/base.log is above"
}

# debian_base LANGUAGE: the base as a local image, from the cache where it is there.
debian_base() {
    local language=$1 tag=cronium/base:$1 folder=$CACHE/bases-$HASH_BASES missing=() each
    for each in "${LANGUAGES[@]}"; do [ -f "$folder/base-$each.tar.gz" ] || missing+=("$each"); done
    if [ ${#missing[@]} -gt 0 ]; then
        need_packages "to make a base image, since no registry answers" debootstrap
        apt_update_once
        mkdir -p "$folder"
        : >"$folder/base.log"
        as_root env CRONIUM_CLOCK="$CRONIUM_CLOCK" "$ROOT/scripts/build-images.sh" --make-bases "$folder" "${missing[@]}"
    fi
    gzip -dc "$folder/base-$language.tar.gz" | docker import - "$tag" >/dev/null
}

# --- The images --------------------------------------------------------------------------------------------------

hash_of() { cat "$@" | sha256sum | cut -c1-16; }
label_of() { docker image inspect --format "{{index .Config.Labels \"$2\"}}" "$1" 2>/dev/null || true; }

alpine_available() {
    docker image inspect "$ALPINE" >/dev/null 2>&1 && return 0
    say "asking a registry for $ALPINE (20 s at most)"
    timeout -k 2 20 docker pull -q "$ALPINE" >"$SCRATCH/pull.log" 2>&1 && return 0
    say "no: $(tail -n 1 "$SCRATCH/pull.log")"
    return 1
}

# build LANGUAGE KIND BASE: the classic builder, since the newer one needs a plugin that Debian's docker.io lacks.
build() {
    local language=$1 tag=cronium/runner:$1-alpine started=${EPOCHREALTIME/[.,]/}
    if ! DOCKER_BUILDKIT=0 timeout -k 5 600 docker build --force-rm -f "$CONTEXT/Dockerfile.$language" -t "$tag" \
        --build-arg BASE="$3" --label cronium.build.hash="$HASH" --label cronium.build.base="$2" \
        "$CONTEXT" >"$SCRATCH/build.log" 2>&1; then
        tail -n 20 "$SCRATCH/build.log" >&2
        return 1
    fi
    check "$language" "$tag" || die "$tag was built, but is not what it must be"
    say "$tag on $2: $(($(docker image inspect --format '{{.Size}}' "$tag") / 1000000)) MB, $(elapsed_ms "$started") ms"
}

# check LANGUAGE TAG: what the agent and the security promise rely on, looked up in the finished image. As root, so that
# no folder is hidden from the search; without rights otherwise.
check() {
    local wrong
    [ "$(docker image inspect --format '{{.Config.User}}' "$2")" = 1000:1000 ] || { warn "user is not 1000:1000"; return 1; }
    # shellcheck disable=SC2016 # expanded in the container
    wrong=$(timeout 60 docker run --rm -i --read-only --network none --user 0:0 --cap-drop ALL --cap-add DAC_READ_SEARCH \
        --security-opt no-new-privileges --entrypoint sh "$2" -s -- "${RUNS[$1]}" <<'CHECK'
find / -xdev \( -perm -4000 -o -perm -2000 \) -exec echo setuid or setgid: {} \;
for name in apk apt apt-get dpkg npm npx corepack pip pip3; do
    ! command -v "$name" >/dev/null || echo "package manager: $name"
done
for name in sh tini $1; do command -v "$name" >/dev/null || echo "missing: $name"; done
! command -v python3 >/dev/null || python3 -c 'import requests, aiohttp' || echo "missing: requests or aiohttp"
[ -s /etc/ssl/certs/ca-certificates.crt ] || echo "missing: certificates"
[ "$(TZ=Europe/Berlin date -d @0 +%H)" = 01 ] || echo "missing: time zones"
[ "$(stat -c %u:%g /workspace)" = 1000:1000 ] || echo "/workspace is not the runner's"
CHECK
    ) || { warn "the image does not start"; return 1; }
    [ -z "$wrong" ] || { warn "$wrong"; return 1; }
}

up_to_date() {
    local language kind
    for language in "${LANGUAGES[@]}"; do
        [ "$(label_of "cronium/runner:$language-alpine" cronium.build.hash)" = "$HASH" ] || return 1
        kind=$(label_of "cronium/runner:$language-alpine" cronium.build.base)
        [ -z "$BASE_FROM" ] || [ "$kind" = "$BASE_FROM" ] || return 1
    done
}

build_all() {
    local language kind=$1 base=$ALPINE
    for language in "${LANGUAGES[@]}"; do
        if [ "$kind" = debootstrap ]; then
            base=cronium/base:$language
            debian_base "$language"
        fi
        build "$language" "$kind" "$base" || return 1
        # Nothing but the build needs these; what the finished image holds is its own.
        docker image prune -f --filter label=cronium.stage=build >/dev/null 2>&1 || true
        [ "$kind" != debootstrap ] || docker rmi "$base" >/dev/null 2>&1 || true
    done
}

BASE_FROM='' FORCE=
while [ $# -gt 0 ]; do
    case $1 in
        --base-from)
            [ $# -ge 2 ] || die "--base-from needs alpine or debootstrap"
            BASE_FROM=$2
            shift
            ;;
        --base-from=*) BASE_FROM=${1#*=} ;;
        --force) FORCE=1 ;;
        --make-bases) # the part of this script that needs root
            shift
            make_bases "$@"
            exit 0
            ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) die "unknown argument '$1': see --help" ;;
    esac
    shift
done
case $BASE_FROM in '' | alpine | debootstrap) ;; *) die "--base-from is '$BASE_FROM'; it can be alpine or debootstrap" ;; esac

HASH=$(hash_of "$CONTEXT"/Dockerfile.* "$CONTEXT/prepare.sh" "${BASH_SOURCE[0]}")
HASH_BASES=$({ declare -p COMMON_PACKAGES PACKAGES && declare -f make_core add_packages make_bases && grep CODENAME /etc/os-release; } | hash_of -)
command -v docker >/dev/null 2>&1 || die "there is no docker command: install docker.io, or run scripts/demo.sh, which does"
engine_answers || die "no Docker engine answers: start one, or run scripts/demo.sh, which does"

if [ -z "$FORCE" ] && up_to_date; then
    say "images: up to date ($(label_of cronium/runner:bash-alpine cronium.build.base) base)"
    exit 0
fi
make_scratch
[ -z "$FORCE" ] || rm -rf "$CACHE/bases-$HASH_BASES"
case $BASE_FROM in
    alpine)
        alpine_available || die "$ALPINE cannot be had: $(tail -n 1 "$SCRATCH/pull.log")"
        build_all alpine || die "the build on $ALPINE failed"
        ;;
    debootstrap) build_all debootstrap || die "the build failed" ;;
    *)
        if alpine_available && build_all alpine; then exit 0; fi
        build_all debootstrap || die "the build failed"
        ;;
esac
