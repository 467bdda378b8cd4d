# shellcheck shell=bash
# lib.sh: what the other scripts share. Sourced, never run.
#
# Three rules for all of them. Every wait has a limit. A script ends what it started: by process id, TERM first, KILL after
# a wait. It names each package, with the reason, before it installs it.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/cronium-agent
# The clock starts with the outermost script, so that nested ones continue its times.
export CRONIUM_CLOCK=${CRONIUM_CLOCK:-${EPOCHREALTIME/[.,]/}}

# elapsed_ms SINCE: milliseconds since SINCE, which is in microseconds.
elapsed_ms() { echo $(((${EPOCHREALTIME/[.,]/} - $1) / 1000)); }
say() {
    local ms
    ms=$(elapsed_ms "$CRONIUM_CLOCK")
    printf '[%5d.%d s] %s\n' $((ms / 1000)) $((ms % 1000 / 100)) "$*"
}
warn() { say "$*" >&2; }
die() {
    say "error: $*" >&2
    exit 1
}

# arguments NAMES "$@": reads the command line of the script. NAMES, such as 'DIR --binary --out': each option takes a value,
# for the variable of its name (BINARY, OUT); the variable DIR gets the only other word. --help prints the head of the script.
arguments() {
    local names=" $1 " name words=0
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help)
                sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"
                exit 0
                ;;
            -*)
                [[ $names == *" $1 "* ]] || die "unknown argument '$1': see --help"
                [ -n "${2:-}" ] || die "$1 needs a value"
                name=${1#--}
                printf -v "${name^^}" %s "$2"
                shift
                ;;
            *)
                name=${names%% --*}
                if [ -z "$name" ] || [ $((words++)) -gt 0 ] || [[ $name$1 == ' ARCH'* && ! $1 =~ ^(x86_64|aarch64)$ ]]; then
                    die "unknown argument '$1': see --help"
                fi
                printf -v "${name# }" %s "$1"
                ;;
        esac
        shift
    done
}

# The times that long steps took here, for the time left of the next run.
export CRONIUM_TIMES=${CRONIUM_TIMES:-$CACHE/times}

# --- Ending what was started -------------------------------------------------------------------------------------

CLEANUPS=()
# on_exit COMMAND ARGS...: runs when the script ends, however it ends; the last one registered runs first.
on_exit() { CLEANUPS+=("$(printf '%q ' "$@")"); }
run_cleanups() {
    local status=$? i
    trap - EXIT
    trap '' INT TERM HUP # a second Ctrl-C must not leave half of it behind; each step has its own limit
    set +e
    for ((i = ${#CLEANUPS[@]} - 1; i >= 0; i--)); do eval "${CLEANUPS[i]}"; done
    exit "$status"
}
trap run_cleanups EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo -- "$@"
    else
        die "'$1' has to run as root, and there is no sudo: run the script as root"
    fi
}

# A zombie still answers kill -0, hence the look at its state.
alive() { [ -n "${1:-}" ] && [ -d "/proc/$1" ] && ! grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null; }

# wait_until SECONDS COMMAND...: polls ten times a second; 1 when the time is over.
wait_until() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}
ended() { ! alive "$1"; }

# stop_pid PID NAME [GRACE]: TERM, up to GRACE seconds (10), then KILL.
stop_pid() {
    local pid=$1 name=$2 grace=${3:-10} send=(kill)
    alive "$pid" || return 0
    kill -0 "$pid" 2>/dev/null || send=(as_root kill)
    "${send[@]}" -TERM "$pid" 2>/dev/null || true
    if ! wait_until "$grace" ended "$pid"; then
        warn "$name (pid $pid) did not end within $grace s of TERM: KILL"
        "${send[@]}" -KILL "$pid" 2>/dev/null || true
        wait_until 5 ended "$pid" || warn "$name (pid $pid) is still there"
    fi
}

# make_scratch: a folder in $SCRATCH that is gone when the script ends. Its name says whose it is.
make_scratch() {
    SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/cronium.$$.XXXXXX")
    on_exit rm -rf "$SCRATCH"
}

# free_port: a TCP port of the loopback on which nothing listens now. Another process may still take it first.
free_port() {
    local port try
    for try in {1..50}; do
        port=$((20000 + (RANDOM + try) % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || {
            echo "$port"
            return 0
        }
    done
    return 1
}

# lasting WHAT SECONDS COMMAND...: says WHAT, and every 5 s how long COMMAND will still take: by its last run here, else by
# SECONDS.
lasting() {
    local what=$1 expected=$2 status=0 begun=$SECONDS key ticker
    key=$CRONIUM_TIMES/${what//[^A-Za-z0-9]/-}
    shift 2
    [ ! -s "$key" ] || read -r expected <"$key" || true
    say "$what: about $expected s"
    tick "$what" "$expected" &
    ticker=$!
    on_exit stop_pid "$ticker" "a clock"
    "$@" || status=$?
    stop_pid "$ticker" "a clock"
    wait "$ticker" 2>/dev/null || true
    [ "$status" -ne 0 ] || { mkdir -p "$CRONIUM_TIMES" && echo $((SECONDS - begun)) >"$key"; } 2>/dev/null || true
    return "$status"
}
# It ends with the script, however that ends.
tick() {
    local begun=$SECONDS never left
    exec {never}<> <(:)
    until read -rt "${left:-5}" -u "$never" || ! alive $$; do
        left=$(($2 - SECONDS + begun))
        if [ "$left" -gt 0 ]; then
            say "$1: about $left s left"
            left=5
        else
            say "$1: longer than expected, $((SECONDS - begun)) s so far"
            left=15
        fi
    done
}

# source_facts: what the program and its package say of themselves must not depend on when and where they are built:
# CRONIUM_COMMIT, CRONIUM_REVISION (the whole name of the commit) and SOURCE_DATE_EPOCH, by the last commit unless they are
# set.
source_facts() {
    if [ -z "${CRONIUM_COMMIT:-}" ] && git -C "$ROOT" rev-parse HEAD >/dev/null 2>&1; then
        CRONIUM_COMMIT=$(git -C "$ROOT" rev-parse --short=12 HEAD)
        git -C "$ROOT" diff --quiet HEAD || CRONIUM_COMMIT+='-changed'
        CRONIUM_REVISION=$(git -C "$ROOT" rev-parse HEAD)
        SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$ROOT" log -1 --format=%ct)}
    fi
    export CRONIUM_COMMIT=${CRONIUM_COMMIT:-unknown} CRONIUM_REVISION=${CRONIUM_REVISION:-unknown} SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0}
}

# static_file ARCH: where scripts/build-static.sh puts the program.
static_file() { echo "$ROOT/dist/cronium-agent-$(awk -F'"' '/^version *=/ {print $2; exit}' "$ROOT/Cargo.toml")-$1-unknown-linux-musl"; }

# --- Packages ----------------------------------------------------------------------------------------------------

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# One after another: some scripts make images while they build.
apt() {
    mkdir -p "$CACHE"
    as_root env DEBIAN_FRONTEND=noninteractive flock -w 600 "$CACHE/apt.lock" apt-get -q -o DPkg::Lock::Timeout=120 "$@" </dev/null
}

# Kept for the whole run: one refresh of the lists is enough.
apt_update_once() {
    [ -z "${CRONIUM_APT_UPDATED:-}" ] || return 0
    say "apt-get update"
    apt update >/dev/null || die "apt-get update failed: is a Debian mirror reachable?"
    export CRONIUM_APT_UPDATED=1
}

install_packages() { apt install -y --no-install-recommends "${@:2}" >"$1" 2>&1; }

# need_packages WHY PACKAGE...: installs the missing ones. Services that come with them are neither started now
# nor at the next boot: the scripts start what they need themselves.
need_packages() {
    local why=$1 name missing=() log guard=/usr/sbin/policy-rc.d
    shift
    for name in "$@"; do installed "$name" || missing+=("$name"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null 2>&1 ||
        die "missing: ${missing[*]} ($why). They are installed by themselves on Debian only; install them and run this again"
    apt_update_once
    log=$(mktemp "${TMPDIR:-/tmp}/cronium.$$.XXXXXX")
    on_exit rm -f "$log"
    if [ ! -e "$guard" ]; then
        on_exit as_root rm -f "$guard"
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$guard" >/dev/null
        as_root chmod 755 "$guard"
    else
        guard=
    fi
    if ! lasting "installing ${missing[*]}: $why" $((5 + 3 * ${#missing[@]})) install_packages "$log" "${missing[@]}"; then
        tail -n 20 "$log" >&2
        die "apt-get install ${missing[*]} failed"
    fi
    rm -f "$log"
    [ -z "$guard" ] || as_root rm -f "$guard"
    [ -d /run/systemd/system ] || return 0
    for name in "${missing[@]}"; do
        case $name in
            prometheus | docker-registry | tinyproxy) as_root systemctl disable --now --quiet "$name" 2>/dev/null || true ;;
            openssh-server) as_root systemctl disable --now --quiet ssh 2>/dev/null || true ;;
        esac
    done
}

# --- The Docker engine -------------------------------------------------------------------------------------------

# The client of a newer release speaks an older engine's API by negotiation, as long as nobody pins a version.
unset DOCKER_API_VERSION

engine_answers() { timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# ensure_engine: returns with an engine that answers, or ends the script. An engine that it starts ends with the script.
# CRONIUM_DOCKERD_ARGS: further arguments for that dockerd.
ensure_engine() {
    local socket host=${DOCKER_HOST:-unix:///var/run/docker.sock}
    if ! command -v docker >/dev/null 2>&1; then
        need_packages "the Docker engine and its command line run the jobs' containers" docker.io
        command -v docker >/dev/null 2>&1 || need_packages "the command line of the Docker engine" docker-cli
    fi
    if engine_answers; then
        say "engine: Docker $(docker version --format '{{.Server.Version}}, API {{.Server.APIVersion}}') answers on $host"
        return 0
    fi
    case $host in
        unix://*) socket=${host#unix://} ;;
        *) die "no Docker engine answers on DOCKER_HOST=$host, and only a local one can be started from here" ;;
    esac
    if [ -S "$socket" ] && [ ! -w "$socket" ] && as_root docker version >/dev/null 2>&1; then
        die "a Docker engine runs, but $socket is not yours: run this as root, or join the group docker and log in again"
    fi
    command -v dockerd >/dev/null 2>&1 || need_packages "no Docker engine is installed" docker.io
    command -v iptables >/dev/null 2>&1 || need_packages "the engine sets up its networks with it" iptables
    start_engine "$host"
}

start_engine() {
    local host=$1 log pid extra=()
    # On a machine without an init system nobody has mounted the control groups.
    if ! grep -q ' /sys/fs/cgroup' /proc/mounts; then
        need_packages "the engine needs control groups, and none are mounted" cgroupfs-mount
        as_root cgroupfs-mount
    fi
    mkdir -p "$CACHE"
    log=$CACHE/dockerd.log
    read -r -a extra <<<"${CRONIUM_DOCKERD_ARGS:-}"
    say "no engine answers on $host: starting dockerd (log: $log)"
    # In a separate session: Ctrl-C reaches this script only, which then ends the engine after its containers.
    as_root setsid dockerd --host "$host" --group "$(id -gn)" ${extra[@]+"${extra[@]}"} >"$log" 2>&1 </dev/null &
    ENGINE_PID=$!
    on_exit stop_engine
    if ! wait_until 60 engine_up_or_dead || ! engine_answers; then
        tail -n 20 "$log" >&2
        die "dockerd did not answer within 60 s; the end of $log is above"
    fi
    # A shell, or sudo, was started above. The daemon is its descendant: to end the shell would not end the daemon.
    while [ "$(cat "/proc/$ENGINE_PID/comm" 2>/dev/null)" != dockerd ] && pid=$(pgrep -o -P "$ENGINE_PID"); do ENGINE_PID=$pid; done
    say "engine: Docker $(docker version --format '{{.Server.Version}}, API {{.Server.APIVersion}}'), pid $ENGINE_PID"
}
engine_up_or_dead() { ! alive "$ENGINE_PID" || engine_answers; }

# dockerd ends its own containerd. If dockerd had to be killed, containerd stays and would block the next dockerd.
stop_engine() {
    local child children
    alive "${ENGINE_PID:-}" || return 0
    say "ending dockerd (pid $ENGINE_PID)"
    children=$(pgrep -P "$ENGINE_PID" || true)
    stop_pid "$ENGINE_PID" dockerd 30
    for child in $children; do
        [ "$(cat "/proc/$child/comm" 2>/dev/null)" != containerd ] || stop_pid "$child" containerd 10
    done
}

ensure_images() { "$ROOT/scripts/build-images.sh"; }

# bench_programs: builds the measuring program, and the agent unless dist/ has a static one; AGENT and BENCH are their files.
# CRONIUM_BENCH_AGENT names another agent.
bench_programs() {
    local version built=${CARGO_TARGET_DIR:-$ROOT/target}/release packages=(-p cronium-bench)
    version=$(awk -F'"' '/^version *=/ {print $2; exit}' "$ROOT/Cargo.toml")
    AGENT=${CRONIUM_BENCH_AGENT:-$ROOT/dist/cronium-agent-$version-$(uname -m)-unknown-linux-musl}
    if [ ! -x "$AGENT" ]; then
        AGENT=$built/cronium-agent
        packages+=(-p cronium-agent)
    fi
    say "building ${packages[*]} (release profile: some minutes the first time)"
    (cd "$ROOT" && timeout -k 10 3600 cargo build --release --bins "${packages[@]}") || die "cargo build failed"
    BENCH=$built/cronium-bench
}

# run_bench ARGS...: the measuring program against the engine of this host.
run_bench() {
    local host=${DOCKER_HOST:-unix:///var/run/docker.sock}
    case $host in
        unix://*) "$BENCH" "$@" --socket "${host#unix://}" ;;
        *) die "the floor is measured over a Unix socket, and DOCKER_HOST is $host" ;;
    esac
}

# gone PID: whether no process has this id. The names that tests give begin with the id of their own process
# (PREFIX-PID-N), which distinguishes what a run left from what another run or agent uses now.
gone() { [[ $1 =~ ^[0-9]+$ ]] && [ ! -d "/proc/$1" ]; }

# left_by_name: of the names on standard input, those PREFIX-PID-… or PREFIX.PID.… whose process is gone.
left_by_name() {
    local name
    while read -r name; do
        [[ ! $name =~ ^[^0-9]*[a-z][-.]([0-9]+)[-.] ]] || ! gone "${BASH_REMATCH[1]}" || echo "$name"
    done
}

# left_in_engine: what tests, and an exec or a doctor that is gone, have left in the engine; each with its kind.
left_in_engine() {
    local id agent owner pid list=(timeout 20 docker)
    "${list[@]}" ps -a --filter label=cronium.managed=true \
        --format '{{.ID}} {{.Label "cronium.agent.id"}} {{.Label "cronium.owner"}}' |
        while read -r id agent owner; do
            # The owner is BOOT/PIDS/TIMES/PID/START; in another space of process ids it means nothing here.
            pid=${owner%/*} pid=${pid##*/}
            case $agent in
                exec) [[ $owner != */"$(readlink /proc/self/ns/pid)"/* ]] || ! gone "$pid" || echo "container:$id" ;;
                doctor) echo "container:$id" ;;
                *) [ -z "$(left_by_name <<<"$agent-")" ] || echo "container:$id" ;;
            esac
        done
    "${list[@]}" volume ls -q | left_by_name | sed 's/^/volume:/'
    "${list[@]}" network ls --format '{{.Name}}-' | left_by_name | sed 's/^/network:/; s/-$//'
    "${list[@]}" images --format '{{.Repository}}:{{.Tag}}' | while read -r id; do
        [[ ! $id =~ ([a-z]+-[0-9]+-[0-9]+)(:|$) ]] || [ -z "$(left_by_name <<<"${BASH_REMATCH[1]}-")" ] || echo "image:$id"
    done
}

# left_on_host: users, networks, mounts and folders that tests have left.
left_on_host() {
    local place
    sed -nE 's/^(cs-[0-9]+-[0-9]+):.*/\1/p' /etc/passwd | left_by_name | sed 's/^/user:/'
    ip -o link show 2>/dev/null | sed -nE 's/.* alias (cronium-test-[0-9]+).*/\1-/p' | left_by_name | sed 's/^/link:/; s/-$//'
    sed -nE 's|.*/(cronium-test-[0-9]+-[^ ]+) .*|\1|p' /proc/mounts | left_by_name | sed 's/^/mount:/'
    for place in $(printf '%s\n' "${TMPDIR:-/tmp}" /tmp /var/tmp /dev/shm | sort -u); do
        find "$place" -maxdepth 1 \( -name 'cronium.*' -o -name 'cronium-*' \) -printf '%f\n' 2>/dev/null | left_by_name | sed "s|^|$place/|"
    done
}

# --- Debian trees, for machines without a registry (run as root) ---------------------------------------------------

# What each of them has; more is the caller's to add.
COMMON_PACKAGES=(tini tzdata ca-certificates)

# The address that this machine's apt uses for its own release: the only mirror that is known to be reachable.
mirror_of() {
    # shellcheck disable=SC2016 # apt's own variables
    apt-get indextargets --format '$(SITE) $(RELEASE) $(CODENAME)' 'Created-By: Packages' 2>/dev/null |
        awk -v suite="$1" '$2 == suite || $3 == suite {print $1; exit}'
}

# make_core SUITE TREE: a minimal system, brought up to the newest packages that this machine's apt knows of.
make_core() {
    local suite=$1 tree=$2 mirror
    mirror=$(mirror_of "$suite")
    [ -n "$mirror" ] || die "apt's configuration names no source for '$suite', so there is no mirror to make a base from"
    debootstrap --variant=minbase --include="$(IFS=, && echo "${COMMON_PACKAGES[*]}")" "$suite" "$tree" "$mirror" || return 1
    add_packages "$tree" dist-upgrade
}

# add_packages TREE COMMAND...: this machine's apt chooses and downloads for the tree; the tree's own dpkg unpacks.
# So every source, proxy and key that apt is set up with here counts, and none of it gets into the tree.
add_packages() {
    local tree=$1 debs=$1/var/cache/cronium
    shift
    mkdir -p "$debs/partial" || return 1
    apt-get -y -q --download-only --no-install-recommends \
        -o Dir::State::status="$tree/var/lib/dpkg/status" -o Dir::State::extended_states="$tree/var/lib/apt/extended_states" \
        -o Dir::Cache::archives="$debs" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o APT::Sandbox::User=root -o APT::Keep-Downloaded-Packages=true -o APT::Install-Suggests=false "$@" </dev/null || return 1
    if compgen -G "$debs/*.deb" >/dev/null; then
        # dpkg goes by name, not by need: a package whose pre-dependency comes later in the alphabet enters in the next round.
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C chroot "$tree" sh -c '
            for round in 1 2 3 4; do
                dpkg --install --skip-same-version --force-confdef --force-confold /var/cache/cronium/*.deb && exit 0
            done
            exit 1' </dev/null || return 1
    fi
    rm -rf "$debs"
}
# An interrupted debootstrap leaves /proc mounted in its tree; rm must not go through it.
drop_trees() {
    umount -l "$1"/*/proc "$1"/*/sys 2>/dev/null
    rm -rf --one-file-system "$1"
}

# --- Rust --------------------------------------------------------------------------------------------------------

at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }
cargo_version() { cargo --version 2>/dev/null | awk '{print $2}'; }
candidate() { apt-cache policy "$1" 2>/dev/null | awk '/Candidate:/ {print $2; exit}'; }

# ensure_rust build|lint: a cargo that is new enough for the project, and a C compiler; for lint, rustfmt and clippy too.
# Debian 12's own rustc is too old; its security archive carries a recent one, as rustc-web, for the browsers it builds.
ensure_rust() {
    local need have
    need=$(awk -F'"' '/^rust-version *=/ {print $2; exit}' "$ROOT/Cargo.toml")
    command -v cargo >/dev/null 2>&1 || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    have=$(cargo_version || true)
    if [ -z "$have" ] || ! at_least "$need" "$have"; then
        if command -v apt-cache >/dev/null 2>&1; then
            apt_update_once
            have=$(candidate cargo-web)
            case $have in '' | '(none)') have=0 ;; esac
        fi
        at_least "$need" "${have:-0}" ||
            die "cargo $need or newer is needed (found: ${have:-none}). Install it from https://rustup.rs and run this again"
        need_packages "the Rust compiler, to build the agent" rustc-web cargo-web
        PATH=/usr/bin:$PATH
        hash -r
    fi
    need_packages "the C compiler, and the OpenSSL that the build links" gcc libc6-dev libssl-dev pkg-config
    [ "$1" = lint ] || return 0
    if ! cargo clippy --version >/dev/null 2>&1 || ! cargo fmt --version >/dev/null 2>&1; then
        if command -v rustup >/dev/null 2>&1; then
            say "rustup component add clippy rustfmt"
            rustup component add clippy rustfmt >/dev/null 2>&1 || die "rustup could not add clippy and rustfmt"
        else
            need_packages "format and lint checks" rust-web-clippy rustfmt-web
        fi
    fi
    say "cargo $(cargo_version), $(cargo clippy --version), $(cargo fmt --version)"
}

# ensure_nightly WHY: rustup's nightly toolchain, beside the compiler that builds the agent.
ensure_nightly() {
    command -v rustup >/dev/null 2>&1 || die "rustup is needed for a nightly compiler ($1): see https://rustup.rs"
    rustup run nightly rustc --version >/dev/null 2>&1 || {
        say "rustup toolchain install nightly: $1"
        rustup toolchain install --profile minimal nightly >/dev/null 2>&1 || die "rustup could not install the nightly toolchain"
    }
    say "$(rustup run nightly rustc --version)"
}
