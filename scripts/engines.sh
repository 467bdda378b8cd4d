#!/usr/bin/env bash
# engines.sh [--force] [docker-20.10|docker-26|docker-28|podman-4|podman-5|all]... [-- PATTERN...]
#
# Runs doctor and the tests that depend on the engine on each engine that people run: Docker and Podman of Debian's stable,
# newer and unstable suites, from this machine's own mirror. One at a time, in separate namespaces (mounts, network,
# processes, control groups), so that nothing of it meets the engine of this machine, and all of it ends with the script.
#   NAME     engines whose name begins with it; default: all
#   PATTERN  tests to run, as `cargo test` takes them; default: those that depend on the engine
#   --force  makes the systems again, which picks up newer versions
# The systems are kept in ${XDG_CACHE_HOME:-~/.cache}/cronium-agent, and what each engine said in engine-NAME.log there.
# While it runs, it needs 4 GB in ${TMPDIR:-/var/tmp}. docs/engines.md says what passes where.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Name, Debian suite, runtime of containers.
ENGINES=("docker-20.10 bookworm runc" "docker-26 trixie runc" "docker-28 unstable runc"
    "podman-4 bookworm crun" "podman-5.4 trixie crun" "podman-5.8 unstable runc")
PACKAGES=(docker.io iptables podman catatonit conmon crun runc netavark aardvark-dns)

# make_tree SUITE FILE: the packed tree with both engines (runs as root).
make_tree() {
    local suite=$1 file=$2 own work mirror
    # shellcheck source=/dev/null
    own=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    mirror=$(mirror_of "$own")
    [ -n "$mirror" ] || die "apt's configuration names no source for '$own', so there is no mirror to make a system from"
    work=$(mktemp -d "${TMPDIR:-/var/tmp}/cronium-engines.$$.XXXXXX")
    on_exit drop_trees "$work"
    mkdir -p "$work/lists/partial" "$work/tree/usr/sbin"
    # This machine's apt, with the keys and proxies that it is set up with, for another suite.
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
    cat >"$work/apt.conf" <<CONF
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferencesparts "-";
Dir::State::lists "$work/lists";
APT::Sandbox::User "root";
CONF
    export APT_CONFIG=$work/apt.conf
    apt-get -q update
    make_core "$suite" "$work/tree"
    # No service starts there.
    printf '#!/bin/sh\nexit 101\n' >"$work/tree/usr/sbin/policy-rc.d"
    chmod 755 "$work/tree/usr/sbin/policy-rc.d"
    add_packages "$work/tree" install "${PACKAGES[@]}"
    tar -C "$work/tree" -c --numeric-owner --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' --exclude='./run/*' \
        --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude='./usr/share/doc/*' \
        --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' --exclude='./debootstrap' . | gzip -1 >"$file.new"
    mv "$file.new" "$file"
    [ -z "${SUDO_UID:-}" ] || chown "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$file"
}

# What depends on the engine. Others are the same on each.
PATTERNS=(bridge:: images:: limits:: lines:: programs:: restart:: security:: system_calls::)
# Names that PATTERNS match too, with an engine or a server of their own.
SKIP=(engine_restart:: ssh)
# Not on Podman: the bridge is refused there, nothing limits inodes, and `inspect` has other words.
SKIP_PODMAN=(bridge:: jobs_cannot_reach_each_other a_million_empty_files from_the_outside_the_configuration)
# Seconds: until an engine answers, and for all of its tests.
UP_LIMIT=120 LIMIT=2400

# each_group: control groups of version 1 as CONTROLLERS PATH, or of version 2 alone as an empty word and a path.
each_group() { awk -F: '$2 != "" {print $2, $3; old = 1} {path = $3} END {if (!old) print "", path}' /proc/self/cgroup; }

# group_folder CONTROLLERS PATH NAME: where the group of the engine is. Below the group of this script; but version 2 has no
# processes beside groups, so there below the root.
group_folder() {
    if [ -n "$1" ]; then echo "/sys/fs/cgroup/${1#name=}${2%/}/$3"; else echo "/sys/fs/cgroup/$3"; fi
}

# enter NAME COMMAND...: runs the command in namespaces and control groups of this name (runs as root).
enter() {
    local name=$1 controllers path folder
    shift
    while IFS=' ' read -r controllers path; do
        folder=$(group_folder "$controllers" "$path" "$name")
        mkdir "$folder"
        [[ ,$controllers, != *,cpuset,* ]] || for path in cpuset.cpus cpuset.mems; do cat "$folder/../$path" >"$folder/$path"; done
    done < <(each_group)
    while IFS=' ' read -r controllers path; do
        echo $$ >"$(group_folder "$controllers" "$path" "$name")/cgroup.procs"
    done < <(each_group)
    exec unshare --mount --net --ipc --uts --pid --cgroup --fork --kill-child=KILL --mount-proc "$@"
}

# own_groups: mounts the control groups so that the namespace's own are the root of each.
own_groups() {
    local controllers old='' each
    mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
    while IFS=: read -r _ controllers _; do
        [ -n "$controllers" ] || continue
        old=1
        mkdir "/sys/fs/cgroup/${controllers#name=}"
        mount -t cgroup -o "${controllers/#name=/none,name=}" cgroup "/sys/fs/cgroup/${controllers#name=}"
        for each in ${controllers//,/ }; do [ -e "/sys/fs/cgroup/${each#name=}" ] || ln -s "$controllers" "/sys/fs/cgroup/$each"; done
    done </proc/self/cgroup
    [ -z "$old" ] || return 0
    umount /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir /sys/fs/cgroup/init
    while read -r each; do echo "$each" >/sys/fs/cgroup/init/cgroup.procs || true; done </sys/fs/cgroup/cgroup.procs
    sed 's/^/+/; s/ / +/g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
}

# in_tree TREE COMMAND...: the command with the tree as its root, in a mount namespace: in a plain chroot Docker loads no image.
in_tree() {
    local tree=$1
    shift
    # shellcheck disable=SC2016 # expanded there
    exec unshare --mount sh -c 'cd "$1" && pivot_root . mnt && shift && exec chroot . sh -c "umount -l /mnt && exec \"\$@\"" - "$@"' - "$tree" \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp PODMAN_IGNORE_CGROUPSV1_WARNING=1 "$@"
}

# podman_settings TREE RUNTIME: without systemd, with the tests' registries, and with a runtime that leaves out the limits on
# open files and processes: Podman 4 raises them, which a machine without CAP_SYS_RESOURCE may not.
podman_settings() {
    mkdir -p "$1/etc/containers/registries.conf.d"
    printf '[storage]\ndriver = "overlay"\ngraphroot = "/srv/data"\nrunroot = "/run/containers/storage"\n' >"$1/etc/containers/storage.conf"
    printf '[[registry]]\nprefix = "127.0.0.1"\nlocation = "127.0.0.1"\ninsecure = true\n' >"$1/etc/containers/registries.conf.d/tests.conf"
    cat >"$1/usr/local/bin/$2" <<'RUNTIME'
#!/bin/sh
bundle= next=
for word; do
    [ -z "$next" ] || bundle=$word
    next=
    case $word in --bundle | -b) next=1 ;; esac
done
[ -z "$bundle" ] || sed -i 's/"rlimits":\[[^]]*\]/"rlimits":[]/' "$bundle/config.json"
exec "/usr/bin/${0##*/}" "$@"
RUNTIME
    chmod 755 "$1/usr/local/bin/$2"
    [ -e "$1/usr/bin/$2" ] || ln -s "../sbin/$2" "$1/usr/bin/$2"
    cat >"$1/etc/containers/containers.conf" <<CONF
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "$2"
[engine.runtimes]
$2 = ["/usr/local/bin/$2"]
CONF
}

# inside NAME RUNTIME WORK ARGS...: the engine and its tests, as the first process of the namespaces. Both see /srv.
inside() {
    local name=$1 runtime=$2 work=$3 tree=$3/tree place network=isolated status=0
    shift 3
    mount --make-rprivate /
    ip link set lo up
    mount -t sysfs sysfs /sys
    own_groups
    mount --bind "$work/share" /srv
    mount --bind "$tree" "$tree"
    for place in dev proc sys srv; do mount --rbind "/$place" "$tree/$place"; done
    for place in run tmp; do mount -t tmpfs tmpfs "$tree/$place"; done
    case $name in
        docker-*)
            in_tree "$tree" dockerd --host unix:///srv/docker.sock --data-root /srv/data >"$work/engine.log" 2>&1 </dev/null &
            ;;
        *)
            network=none
            podman_settings "$tree" "$runtime"
            in_tree "$tree" podman system service --time=0 unix:///srv/docker.sock >"$work/engine.log" 2>&1 </dev/null &
            ;;
    esac
    ENGINE_PID=$!
    export HOME=/root TMPDIR=/srv/tmp DOCKER_HOST=unix:///srv/docker.sock CRONIUM_TEST_AGENT=/srv/agent
    if ! wait_until "$UP_LIMIT" engine_up_or_dead || ! engine_answers; then
        tail -n 30 "$work/engine.log"
        die "$name did not answer within $UP_LIMIT s; the end of what it said is above"
    fi
    docker load --quiet --input /srv/images.tar
    docker version --format '{{range .Server.Components}}{{.Name}} {{.Version}}, {{end}}'
    docker info --format 'runtime {{.DefaultRuntime}}, storage {{.Driver}}, control groups {{.CgroupVersion}} by {{.CgroupDriver}}'
    # Of the backend, which is not there, doctor has nothing good to say.
    /srv/agent doctor --set api.endpoint=http://127.0.0.1:1 --set api.token=none \
        --set state.dir=/srv/state --set "container.network.mode=$network" | tee /srv/doctor || true
    if grep -qE '^(FAIL|fail) +proof-' /srv/doctor || ! grep -qE '^ok +proof-' /srv/doctor; then
        status=1
        say "$name: doctor does not give its proofs"
    fi
    cd "$ROOT"
    timeout -k 10 "$LIMIT" /srv/tests "$@" || status=1
    tail -n 5 "$work/engine.log" | cut -c1-300
    exit "$status"
}

FORCE='' GIVEN=()
while [ $# -gt 0 ]; do
    case $1 in
        --force) FORCE=1 ;;
        --make-tree) # the parts of this script that need root
            make_tree "$2" "$3"
            exit 0
            ;;
        --enter)
            shift
            enter "$@"
            ;;
        --inside)
            shift
            inside "$@"
            ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        --)
            shift
            [ $# -eq 0 ] || PATTERNS=("$@")
            break
            ;;
        -*) die "unknown argument '$1': see --help" ;;
        all) GIVEN+=('') ;;
        *)
            [[ " ${ENGINES[*]}" == *" $1"* ]] || die "no engine is called '$1': see --help"
            GIVEN+=("$1")
            ;;
    esac
    shift
done
[ ${#GIVEN[@]} -gt 0 ] || GIVEN=('')
CHOSEN=()
for engine in "${ENGINES[@]}"; do
    for name in "${GIVEN[@]}"; do
        if [[ $engine == "$name"* ]]; then CHOSEN+=("$engine") && break; fi
    done
done

make_scratch
ensure_rust build
need_packages "the tests pull from a real registry, with a password" docker-registry apache2-utils
need_packages "to make namespaces and networks, and to read what cargo says" util-linux iproute2 jq
ensure_engine
ensure_images
"$ROOT/scripts/programs.sh"
say "building the tests"
BINARY=$(cd "$ROOT" && timeout -k 10 1800 cargo test --test integration --no-run --message-format=json |
    jq -r 'select(.reason == "compiler-artifact" and .target.name == "integration") | .executable') || die "cargo failed"
[ -x "$BINARY" ] || die "cargo named no test program"

HASH=$({ declare -p PACKAGES COMMON_PACKAGES && declare -f make_tree make_core add_packages; } | sha256sum | cut -c1-16)
# tree_of SUITE: sets TREE to the packed tree of this suite, which is made where it is missing.
tree_of() {
    TREE=$CACHE/engines-$1-$HASH.tar.gz
    [ -n "$FORCE" ] || [ ! -f "$TREE" ] || return 0
    need_packages "to make a system from Debian's packages" debootstrap
    apt_update_once
    mkdir -p "$CACHE"
    say "a Debian $1 with its engines (log: $CACHE/engines-tree.log)"
    if ! as_root env CRONIUM_CLOCK="$CRONIUM_CLOCK" TMPDIR="${TMPDIR:-/var/tmp}" "$ROOT/scripts/engines.sh" --make-tree "$1" "$TREE" \
        >"$CACHE/engines-tree.log" 2>&1; then
        tail -n 20 "$CACHE/engines-tree.log" >&2
        die "the system could not be made; the end of $CACHE/engines-tree.log is above"
    fi
    find "$CACHE" -maxdepth 1 -name "engines-$1-*.tar.gz" ! -name "engines-$1-$HASH.tar.gz" -delete
}

NAME=cronium-engine-$$
WORK=$(mktemp -d "${TMPDIR:-/var/tmp}/cronium-engines.$$.XXXXXX")
clear_work() { as_root rm -rf --one-file-system "$WORK"; }
on_exit clear_work
chmod 755 "$WORK"
mkdir "$WORK/share"
# Copies: a build that somebody starts meanwhile changes nothing.
cp "$BINARY" "$WORK/share/tests"
cp "$(dirname "$BINARY")/../cronium-agent" "$WORK/share/agent"

# stop_engine_tests: ends all that runs in the namespaces, and removes the control groups.
RUNNING=
stop_engine_tests() {
    local controllers path folder
    stop_pid "$RUNNING" "the engine and its tests" 1
    while IFS=' ' read -r controllers path; do
        folder=$(group_folder "$controllers" "$path" "$NAME")
        [ ! -d "$folder" ] || wait_until 20 groups_removed "$folder" || warn "the control group $folder is still there"
    done < <(each_group)
}
groups_removed() { as_root find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || [ ! -d "$1" ]; }
on_exit stop_engine_tests

# run_engine NAME SUITE RUNTIME: 0 if its proofs and tests are good.
run_engine() {
    local engine=$1 suite=$2 runtime=$3 status=0 job pid filter=() word
    tree_of "$suite"
    as_root rm -rf --one-file-system "$WORK/tree" "$WORK/share/data" "$WORK/share/state" "$WORK/share/tmp"
    mkdir "$WORK/tree" "$WORK/share/tmp"
    chmod 1777 "$WORK/share/tmp"
    as_root tar -C "$WORK/tree" -xzf "$TREE"
    : >"$WORK/said"
    for word in "${SKIP[@]}"; do filter+=(--skip "$word"); done
    if [[ $engine == podman-* ]]; then for word in "${SKIP_PODMAN[@]}"; do filter+=(--skip "$word"); done; fi
    as_root "$ROOT/scripts/engines.sh" --enter "$NAME" "$ROOT/scripts/engines.sh" --inside "$engine" "$runtime" "$WORK" \
        --color=never --test-threads=2 "${filter[@]}" "${PATTERNS[@]}" >"$WORK/said" 2>&1 </dev/null &
    job=$!
    RUNNING=$job
    # In the background, so that a signal to this script is acted on at once.
    tail -n +1 --pid="$RUNNING" -f "$WORK/said" | tee "$CACHE/engine-$engine.log" &
    # This shell, or sudo, was started above. What is to be ended is `unshare`, and all goes with it.
    while alive "$RUNNING" && [ "$(cat "/proc/$RUNNING/comm" 2>/dev/null)" != unshare ] && pid=$(pgrep -o -P "$RUNNING"); do RUNNING=$pid; done
    wait "$job" || status=$?
    wait
    stop_engine_tests
    return "$status"
}

say "its images"
docker save -o "$WORK/share/images.tar" cronium/runner:{bash,python,node}-alpine cronium/test:programs
RESULTS=() BAD=0
for engine in "${CHOSEN[@]}"; do
    read -r name suite runtime <<<"$engine"
    say "--- $name of Debian $suite"
    word=good
    run_engine "$name" "$suite" "$runtime" || word=BAD BAD=1
    RESULTS+=("$(printf '%-14s %-5s %s' "$name" "$word" "$(sed -n 's/^test result: //p' "$CACHE/engine-$name.log" | tail -n 1)")")
done
printf '%s\n' "${RESULTS[@]}"
[ "$BAD" -eq 0 ]
