#!/usr/bin/env bash
# build-images.sh [--base-from alpine|debootstrap] [--force]
#
# Makes the three images in which jobs run, from runtime-images/: cronium/runner:bash-alpine, :python-alpine and
# :node-alpine. The base is Alpine where a registry answers. Where none does, the base is made here, from the
# packages of this machine's own Debian mirror; the three images share it, and each language is one layer more.
#
# What is up to date is left alone: each image carries a hash of the files that it was made from.
#   --base-from KIND  insist on one kind of base
#   --force           build again, and make Debian bases anew (which picks up security updates)
# The parts of Debian images are kept in ${XDG_CACHE_HOME:-~/.cache}/cronium-agent.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

CONTEXT=$ROOT/runtime-images
LANGUAGES=(bash python node)
ALPINE=$(awk -F= '/^ARG BASE=/ {print $2; exit}' "$CONTEXT/Dockerfile.bash")
# What a language needs on a Debian base; the Alpine names stand in its Dockerfile. perl-base is in every one.
declare -A PACKAGES=([bash]="curl jq" [python]="python3 python3-requests python3-aiohttp" [node]="nodejs")
declare -A RUNS=([bash]="bash perl curl jq" [python]="python3" [node]="node")
TAGS=cronium/runner

# --- The Debian base (runs as root) ------------------------------------------------------------------------------

# make_bases FOLDER: writes FOLDER/core.tar.gz, a minimal Debian that packages can be added to; base.tar.gz, the part that the
# three images share; and LANGUAGE.tar.gz, what each language adds to that.
make_bases() {
    local out=$1 suite work
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    work=$(mktemp -d "${TMPDIR:-/var/tmp}/cronium-base.$$.XXXXXX")
    on_exit drop_trees "$work"
    chmod 755 "$work"
    # After a crash the trees are thrown away, so nothing waits for the disk.
    mkdir -p "$work/core/etc/dpkg/dpkg.cfg.d"
    echo force-unsafe-io >"$work/core/etc/dpkg/dpkg.cfg.d/cronium"
    lasting "making a minimal Debian $suite" 40 logged "$out/base.log" make_core "$suite" "$work/core" || fail_base "$out"
    lasting "adding the languages" 30 add_languages || fail_base "$out"
    # Under sudo the cache stays the caller's.
    [ -z "${SUDO_UID:-}" ] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$out"
}
# add_languages: with out and work of make_bases.
add_languages() {
    local language pid pids=() new=$out/new
    mkdir -p "$new"
    for language in "${LANGUAGES[@]}"; do cp -a "$work/core" "$work/$language" || return 1; done
    # What changes after this moment is a language's own.
    sleep 0.1
    touch "$work/copied"
    sleep 0.1
    for language in "${LANGUAGES[@]}"; do
        add_language "$work/$language" "$language" >"$out/base-$language.log" 2>&1 &
        pids+=($!)
    done
    pack "$work/core" . >"$new/core.tar.gz" || return 1
    prepare "$work/core" sh tini >>"$out/base.log" 2>&1 || return 1
    pack "$work/core" . >"$new/base.tar.gz" || return 1
    for pid in "${pids[@]}"; do
        wait "$pid" || { cat "$out"/base-*.log >>"$out/base.log" && return 1; }
    done
    for language in "${LANGUAGES[@]}"; do
        (cd "$work/$language" && find . -xdev -cnewer ../copied -print0) >"$work/changed"
        pack "$work/$language" --no-recursion --null -T "$work/changed" >"$new/$language.tar.gz" || return 1
    done
    # Whole files alone bear the names that are looked for.
    mv "$new"/* "$out" && rmdir "$new"
}
logged() { "${@:2}" >>"$1" 2>&1; }
fail_base() {
    tail -n 20 "$1/base.log" >&2
    die "the Debian base could not be made; the end of $1/base.log is above"
}
add_language() {
    # shellcheck disable=SC2086 # lists of names
    add_packages "$1" install ${PACKAGES[$2]} && prepare "$1" sh tini ${RUNS[$2]}
}
# prepare TREE COMMAND...: the build step of the Dockerfiles.
prepare() {
    local tree=$1
    shift
    install -m 755 "$CONTEXT/prepare.sh" "$tree/run/prepare.sh" &&
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C chroot "$tree" sh /run/prepare.sh -- "$@" &&
        rm "$tree/run/prepare.sh"
}
pack() {
    tar -C "$1" -c --numeric-owner --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' \
        --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude='./var/log/*' \
        --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' \
        --exclude='./usr/share/info/*' --exclude='./etc/resolv.conf' --exclude='./etc/hostname' "${@:2}" | gzip -1
}

# debian_base: the parts of the images, from the cache where they are there; PARTS is their folder.
debian_base() {
    local each
    PARTS=$CACHE/bases-$HASH_BASES
    for each in core base "${LANGUAGES[@]}"; do
        [ -f "$PARTS/$each.tar.gz" ] || break
        each=
    done
    [ -n "$each" ] || return 0
    need_packages "to make a base image, since no registry answers" debootstrap
    apt_update_once
    mkdir -p "$PARTS"
    : >"$PARTS/base.log"
    as_root env CRONIUM_CLOCK="$CRONIUM_CLOCK" CRONIUM_TIMES="$CRONIUM_TIMES" "$ROOT/scripts/build-images.sh" --make-bases "$PARTS"
    # Those of an earlier release of this script, or of Debian.
    find "$CACHE" -maxdepth 1 -name 'bases-*' -mtime +30 -exec rm -rf {} +
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

# build LANGUAGE KIND CONTEXT ARG...: the classic builder, since the newer one needs a plugin that Debian's docker.io lacks.
build() {
    local language=$1 kind=$2 context=$3 tag=$TAGS:$1-alpine started=${EPOCHREALTIME/[.,]/} log=$SCRATCH/build-$1.log
    shift 3
    if ! DOCKER_BUILDKIT=0 timeout -k 5 600 docker build --force-rm -t "$tag" "$@" \
        --label cronium.build.hash="$HASH" --label cronium.build.base="$kind" "$context" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        return 1
    fi
    check "$language" "$tag" || die "$tag was built, but is not what it must be"
    say "$tag on $kind: $(($(docker image inspect --format '{{.Size}}' "$tag") / 1000000)) MB, $(elapsed_ms "$started") ms"
}

build_on_alpine() { build "$1" alpine "$CONTEXT" -f "$CONTEXT/Dockerfile.$1" --build-arg BASE="$ALPINE"; }

# The last stage of the Dockerfile, on the shared base; the language is one layer.
build_on_debian() {
    local context=$SCRATCH/$1
    mkdir "$context"
    cp "$PARTS/$1.tar.gz" "$context/added.tar.gz"
    { printf 'FROM %s\nADD added.tar.gz /\n' "$BASE" && sed '1,/^COPY --from=build/d' "$CONTEXT/Dockerfile.$1"; } >"$context/Dockerfile"
    build "$1" debootstrap "$context"
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
        [ "$(label_of "$TAGS:$language-alpine" cronium.build.hash)" = "$HASH" ] || return 1
        kind=$(label_of "$TAGS:$language-alpine" cronium.build.base)
        [ -z "$BASE_FROM" ] || [ "$kind" = "$BASE_FROM" ] || return 1
    done
}

# build_all KIND: the three side by side.
build_all() {
    local language pid pids=() failed=0
    BASE=cronium/base:$HASH_BASES
    if [ "$1" = debootstrap ]; then
        debian_base
        gzip -dc "$PARTS/base.tar.gz" | docker import - "$BASE" >/dev/null
    fi
    for language in "${LANGUAGES[@]}"; do
        if [ "$1" = debootstrap ]; then build_on_debian "$language" & else build_on_alpine "$language" & fi
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
    # Nothing but the build needs these; what the finished images hold is their own.
    docker image prune -f --filter label=cronium.stage=build >/dev/null 2>&1 || true
    [ "$1" != debootstrap ] || docker rmi "$BASE" >/dev/null 2>&1 || true
    return "$failed"
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
HASH_BASES=$({ declare -p COMMON_PACKAGES PACKAGES && declare -f make_core add_packages make_bases add_languages add_language prepare pack && cat "$CONTEXT/prepare.sh" && grep CODENAME /etc/os-release; } | hash_of -)
command -v docker >/dev/null 2>&1 || die "there is no docker command: install docker.io, or run scripts/demo.sh, which does"
engine_answers || die "no Docker engine answers: start one, or run scripts/demo.sh, which does"

if [ -z "$FORCE" ] && up_to_date; then
    say "images: up to date ($(label_of "$TAGS:bash-alpine" cronium.build.base) base)"
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
