#!/usr/bin/env bash
# install.sh --binary FILE [--sha256 FILE] [--token-file FILE] [--firewall MODE] [--prefix DIR] [--root DIR]
# install.sh --uninstall [--purge] [--prefix DIR] [--root DIR]
#
# Puts the agent on a host with systemd: the files of configs/package/files, user and token. Run it as root. A second run
# upgrades, and changes neither configuration nor token. It starts nothing; it prints how. On Debian and its relatives the
# package of scripts/package.sh does the same.
#   --binary FILE      the program, as scripts/build-static.sh makes it
#   --sha256 FILE      its checksum (default: FILE.sha256 beside it); nothing is installed unless it matches
#   --token-file FILE  the backend's token, copied to /etc/cronium/api-token (mode 0600) if that has none yet
#   --firewall MODE    a firewall around jobs in containers (needs nftables): metadata closes link-local addresses and the
#                      clouds' metadata services; strict closes this host's own addresses and private ranges too, but for
#                      those in /etc/cronium/cronium-jobs-allow.nft; off removes it (default: as it is; off at first)
#   --prefix DIR       where bin/ is (default: /usr/local)
#   --root DIR         installs below DIR, for an image or a test: makes no user, does not reload systemd
#   --uninstall        removes program, units and pages; configuration, token and state stay
#   --purge            with --uninstall: removes those and the user too
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SERVICE=cronium-agent.service
ACCOUNT=cronium
FILES=$HERE/configs/package/files
BINARY='' SUM='' TOKEN='' MODE='' PREFIX=/usr/local ROOT='' UNINSTALL='' PURGE=''

say() { printf 'install: %s\n' "$*"; }
die() {
    printf 'install: error: %s\n' "$*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --firewall=*) set -- --firewall "${1#*=}" "${@:2}" ;;
    esac
    case $1 in
        --binary | --sha256 | --token-file | --firewall | --prefix | --root)
            [ -n "${2:-}" ] || die "$1 needs a value"
            case $1 in
                --binary) BINARY=$2 ;;
                --sha256) SUM=$2 ;;
                --token-file) TOKEN=$2 ;;
                --firewall) MODE=$2 ;;
                --prefix) PREFIX=$2 ;;
                --root) ROOT=${2%/} ;;
            esac
            shift
            ;;
        --uninstall) UNINSTALL=1 ;;
        --purge) PURGE=1 ;;
        -h | --help)
            sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) die "unknown argument '$1': see --help" ;;
    esac
    shift
done
case $PREFIX in
    # It becomes part of the unit's ExecStart=, where a blank ends a word and % has a meaning.
    /*[!A-Za-z0-9/._-]*) die "--prefix may hold letters, digits and /._- only" ;;
    /*) PREFIX=${PREFIX%/} ;;
    *) die "--prefix needs an absolute path" ;;
esac
case $MODE in
    '' | off | metadata | strict) ;;
    *) die "--firewall takes strict, metadata or off" ;;
esac
case $ROOT in
    '' | /*) ;;
    *) die "--root needs an absolute path, and not /" ;;
esac
[ -z "$PURGE" ] || [ -n "$UNINSTALL" ] || die "--purge goes with --uninstall"
[ -n "$ROOT" ] || [ "$(id -u)" -eq 0 ] || die "has to run as root"

PROGRAM=$ROOT$PREFIX/bin/cronium-agent
FIREWALL=$ROOT$PREFIX/sbin/cronium-firewall
UNITS=$ROOT/etc/systemd/system
SETTINGS=$ROOT/etc/cronium
STATE=$ROOT/var/lib/cronium
LOGS=$ROOT/var/log/cronium

# where TARGET: the place here of a file of the package.
where() {
    case $1 in
        /usr/lib/systemd/system/*) echo "$UNITS/${1##*/}" ;;
        /usr/lib/sysusers.d/* | /usr/lib/tmpfiles.d/*) echo "$ROOT/etc/${1#/usr/lib/}" ;;
        /usr/share/zsh/vendor-completions/*) echo "$ROOT$PREFIX/share/zsh/site-functions/${1##*/}" ;;
        /usr/*) echo "$ROOT$PREFIX/${1#/usr/}" ;;
        *) echo "$ROOT$1" ;;
    esac
}

# each_file COMMAND: runs it with mode, source and target of each file.
each_file() {
    local mode source target
    while read -r mode source target; do
        [[ $mode != 0* ]] || "$1" "$mode" "$source" "$(where "$target")"
    done <"$FILES"
}

# With --root there is no service manager and no account: an image makes the account when it boots.
on_host() { [ -z "$ROOT" ]; }
systemd_runs() { on_host && [ -d /run/systemd/system ]; }
has_account() { getent passwd "$ACCOUNT" >/dev/null; }

# place MODE SOURCE TARGET: written beside and renamed, so that a running program is replaced and not overwritten, and
# nobody sees half a file. An equal file is left alone.
place() {
    local mode=$1 source=$2 target=$3 beside
    if cmp -s "$source" "$target" && [ "$(stat -c %a "$target")" = "${mode#0}" ]; then
        say "$target is up to date"
        return 0
    fi
    mkdir -p "$(dirname "$target")"
    beside=$target.new
    install -m "$mode" "$source" "$beside"
    mv -f "$beside" "$target"
    say "$target written"
}

# The checksum's file has a line of sha256sum; only the sum counts, since the program may have been renamed.
check_sum() {
    local wanted found
    [ -f "$BINARY" ] || die "--binary $BINARY: no such file"
    [ -f "$SUM" ] || die "no checksum: $SUM is missing; give it with --sha256"
    wanted=$(awk 'NR == 1 {print tolower($1)}' "$SUM")
    [[ $wanted =~ ^[0-9a-f]{64}$ ]] || die "$SUM holds no SHA-256 sum"
    found=$(sha256sum <"$BINARY" | awk '{print $1}')
    [ "$wanted" = "$found" ] ||
        die "$BINARY is not what was built: its SHA-256 is $found, $SUM says $wanted; nothing was installed"
    say "checksum of $BINARY is right"
}

# User, folders and their owners, as the package makes them.
make_account() {
    on_host || return 0
    systemd-sysusers "$ROOT/etc/sysusers.d/cronium-agent.conf"
    systemd-tmpfiles --create "$ROOT/etc/tmpfiles.d/cronium-agent.conf"
}

make_token() {
    local token=$SETTINGS/api-token
    # Made with its mode, never opened for others even for a moment.
    [ -e "$token" ] || (umask 077 && : >"$token")
    if [ -n "$TOKEN" ] && [ ! -s "$token" ]; then
        (umask 077 && cat "$TOKEN" >"$token.new" && mv -f "$token.new" "$token")
        say "$token written"
    elif [ -n "$TOKEN" ]; then
        say "$token has a token already, which is kept"
    fi
    chmod 0600 "$token"
    [ -s "$token" ] || NEXT+=("write the backend's token into ${token#"$ROOT"} (one line, the file keeps its mode)")
}

# put MODE SOURCE TARGET: a file of the list. Units name the program where it is here.
put() {
    local mode=$1 source=$HERE/$2 target=$3
    case $2 in
        PROGRAM) source=$BINARY ;;
        *.service)
            sed "s|/usr/local/bin/|$PREFIX/bin/|" "$source" >"$SCRATCH/unit"
            source=$SCRATCH/unit
            ;;
    esac
    if [[ $target == "$SETTINGS"/* ]] && [ -e "$target" ]; then
        say "$target is kept as it is"
    else
        place "$mode" "$source" "$target"
    fi
}

remove() {
    [[ $3 == "$SETTINGS"/* ]] || rm -f "$3"
}

install_all() {
    local word
    [ -n "$BINARY" ] || die "--binary is needed: see --help"
    [ -z "$TOKEN" ] || [ -s "$TOKEN" ] || die "--token-file $TOKEN: no such file, or an empty one"
    SUM=${SUM:-$BINARY.sha256}
    NEXT=()
    check_sum
    SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/cronium.$$.XXXXXX")
    trap 'rm -rf "$SCRATCH"' EXIT
    [ -e "$SETTINGS/cronium-orchestrator.yaml" ] || NEXT+=("set api.endpoint in /etc/cronium/cronium-orchestrator.yaml")
    each_file put
    chmod 0750 "$SETTINGS"
    make_account
    make_token
    # An upgrade keeps the mode.
    "$FIREWALL" ${ROOT:+--root "$ROOT"} ${MODE:+"$MODE"}
    if systemd_runs; then systemctl daemon-reload; fi
    # The operator decides when to restart.
    NEXT+=("systemctl enable --now $SERVICE, or systemctl restart $SERVICE after an upgrade")
    say "installed. Next:"
    for word in "${NEXT[@]}"; do say "  - $word"; done
}

uninstall() {
    if systemd_runs && [ -e "$UNITS/$SERVICE" ]; then
        say "stopping $SERVICE: it waits for running jobs"
        systemctl disable --now "$SERVICE"
    fi
    [ ! -x "$FIREWALL" ] || "$FIREWALL" ${ROOT:+--root "$ROOT"} off
    each_file remove
    rmdir "$ROOT$PREFIX/share/cronium-agent" 2>/dev/null || true
    if systemd_runs; then systemctl daemon-reload; fi
    say "removed $PROGRAM, its units and pages"
    if [ -z "$PURGE" ]; then
        say "kept: $SETTINGS, $STATE, $LOGS and the user $ACCOUNT; --purge removes them"
        return 0
    fi
    rm -rf "$SETTINGS" "$STATE" "$LOGS" "$ROOT/run/cronium" "$UNITS/$SERVICE.d"
    if on_host && has_account; then userdel "$ACCOUNT"; fi
    say "removed $SETTINGS, $STATE, $LOGS and the user $ACCOUNT"
}

if [ -n "$UNINSTALL" ]; then uninstall; else install_all; fi
