#!/usr/bin/env bash
# install.sh --binary FILE [--sha256 FILE] [--token-file FILE] [--firewall MODE] [--prefix DIR] [--root DIR]
# install.sh --uninstall [--purge] [--prefix DIR] [--root DIR]
#
# Puts the agent on a host with systemd: program, unit, user, configuration, token. Run it as root. A second run upgrades,
# and changes neither configuration nor token. It starts nothing; it prints how.
#   --binary FILE      the program, as scripts/build-static.sh makes it
#   --sha256 FILE      its checksum (default: FILE.sha256 beside it); nothing is installed unless it matches
#   --token-file FILE  the backend's token, copied to /etc/cronium/api-token (mode 0600) if that has none yet
#   --firewall MODE    a firewall around jobs in containers (needs nftables): metadata closes link-local addresses and the
#                      clouds' metadata services; strict closes this host's own addresses and private ranges too, but for
#                      those in /etc/cronium/cronium-jobs-allow.nft; off removes it (default: as it is; off at first)
#   --prefix DIR       where bin/ is (default: /usr/local)
#   --root DIR         installs below DIR, for an image or a test: makes no user, does not reload systemd
#   --uninstall        removes program and unit; configuration, token and state stay
#   --purge            with --uninstall: removes those and the user too
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SERVICE=cronium-agent.service
ACCOUNT=cronium
FIREWALL=cronium-firewall.service
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
UNIT=$ROOT/etc/systemd/system/$SERVICE
SETTINGS=$ROOT/etc/cronium
RULES=$SETTINGS/cronium-jobs.nft
WALL=$ROOT/etc/systemd/system/$FIREWALL
# The agent does not start without the firewall.
GUARD=$UNIT.d/firewall.conf
# The service of the nftables package flushes all tables when it starts.
AFTER_FLUSH=$ROOT/etc/systemd/system/nftables.service.d/cronium-firewall.conf
STATE=$ROOT/var/lib/cronium
LOGS=$ROOT/var/log/cronium

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

make_account() {
    on_host || return 0
    if ! has_account; then
        # useradd is on every distribution with systemd; adduser means different things on different ones.
        useradd --system --user-group --no-create-home --home-dir /var/lib/cronium --shell /usr/sbin/nologin "$ACCOUNT"
        say "user and group $ACCOUNT made"
    fi
    getent group docker >/dev/null ||
        say "note: this host has no group docker; install the engine, or name the group of its socket with systemctl edit $SERVICE"
}

# owned GROUP MODE PATH: the configuration is root's and readable for the agent's group.
owned() {
    chmod "$2" "$3"
    ! on_host || chown "root:$1" "$3"
}

make_settings() {
    local config=$SETTINGS/cronium-orchestrator.yaml token=$SETTINGS/api-token
    mkdir -p "$SETTINGS"
    owned "$ACCOUNT" 0750 "$SETTINGS"
    if [ -e "$config" ]; then
        say "$config is kept as it is"
    else
        place 0640 "$SCRATCH/config" "$config"
        owned "$ACCOUNT" 0640 "$config"
    fi
    # Made with its mode, never opened for others even for a moment.
    [ -e "$token" ] || (umask 077 && : >"$token")
    if [ -n "$TOKEN" ] && [ ! -s "$token" ]; then
        (umask 077 && cat "$TOKEN" >"$token.new" && mv -f "$token.new" "$token")
        say "$token written"
    elif [ -n "$TOKEN" ]; then
        say "$token has a token already, which is kept"
    fi
    owned root 0600 "$token"
    [ -s "$token" ] || NEXT+=("write the backend's token into ${token#"$ROOT"} (one line, the file keeps its mode)")
}

# The unit that is shipped, with the prefix that was asked for; the configuration that is shipped, without its token,
# which comes as a credential.
prepare() {
    SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/cronium.$$.XXXXXX")
    trap 'rm -rf "$SCRATCH"' EXIT
    sed "s|^ExecStart=/usr/local/bin/|ExecStart=$PREFIX/bin/|" "$HERE/configs/systemd/$SERVICE" >"$SCRATCH/unit"
    grep -q "^ExecStart=$PREFIX/bin/cronium-agent " "$SCRATCH/unit" || die "the unit has no ExecStart= to adapt"
    cat >"$SCRATCH/config" <<'CONFIG'
# The configuration of cronium-agent on this host. Every key and its default: configs/cronium-orchestrator.yaml of the
# sources, or `cronium-agent validate --explain`. The token is not here: it is in api-token beside this file.
api:
  endpoint: http://localhost:5001
# The journal has each line's time and level by itself; with json, what collects it needs both in the line.
logging:
  format: text
CONFIG
}

# The name servers that Docker asks from inside a job's network: this host's, but for those on its loopback.
name_servers() {
    local file=$ROOT/etc/resolv.conf
    # The loopback's alone: systemd-resolved, whose own servers Docker takes then.
    awk '$1 == "nameserver" && $2 !~ /^(127\.|::1$)/ {found = 1} END {exit !found}' "$file" 2>/dev/null ||
        file=$ROOT/run/systemd/resolve/resolv.conf
    [ ! -r "$file" ] || awk '$1 == "nameserver" && $2 !~ /^(127\.|::1$)/ && $2 ~ /^[0-9a-fA-F.:]+$/ {
        print "        " ($2 ~ /:/ ? "ip6" : "ip") " daddr " $2 " meta l4proto { tcp, udp } th dport 53 accept"}' "$file"
}

install_firewall() {
    local allow=$SETTINGS/cronium-jobs-allow.nft from=$HERE/configs
    # An upgrade keeps the mode.
    [ -n "$MODE" ] || MODE=$(sed -n 's/^define mode = \([a-z]*\)$/\1/p' "$RULES" 2>/dev/null || true)
    case $MODE in
        '') return 0 ;;
        off) remove_firewall && return 0 ;;
    esac
    ! on_host || command -v nft >/dev/null || die "--firewall needs nft: install the package nftables"
    if [ -e "$allow" ]; then
        say "$allow is kept as it is"
    else
        name_servers >"$SCRATCH/servers"
        sed "/^    chain allowed {/r $SCRATCH/servers" "$from/firewall/cronium-jobs-allow.nft" >"$SCRATCH/allow"
        place 0644 "$SCRATCH/allow" "$allow"
    fi
    sed "s/^define mode = .*/define mode = $MODE/" "$from/firewall/cronium-jobs.nft" >"$SCRATCH/rules"
    grep -qx "define mode = $MODE" "$SCRATCH/rules" || die "the rules have no mode to set"
    place 0644 "$SCRATCH/rules" "$RULES"
    ! on_host || nft -c -f "$RULES" || die "nft does not take $RULES and $allow: see above"
    place 0644 "$from/systemd/$FIREWALL" "$WALL"
    place 0644 "$from/systemd/cronium-agent-firewall.conf" "$GUARD"
    place 0644 "$from/systemd/nftables-cronium.conf" "$AFTER_FLUSH"
    NEXT+=("look at ${allow#"$ROOT"}: what jobs may reach, name servers among it"
        "systemctl enable $FIREWALL && systemctl reload-or-restart $FIREWALL")
}

remove_firewall() {
    [ -e "$WALL" ] || [ -e "$RULES" ] || return 0
    if systemd_runs && [ -e "$WALL" ]; then systemctl disable --now "$FIREWALL"; fi
    rm -f "$GUARD" "$AFTER_FLUSH" "$WALL" "$RULES"
    rmdir "$UNIT.d" "$(dirname "$AFTER_FLUSH")" 2>/dev/null || true
    say "no firewall around jobs"
}

install_all() {
    local word
    [ -n "$BINARY" ] || die "--binary is needed: see --help"
    [ -z "$TOKEN" ] || [ -s "$TOKEN" ] || die "--token-file $TOKEN: no such file, or an empty one"
    SUM=${SUM:-$BINARY.sha256}
    NEXT=()
    check_sum
    prepare
    make_account
    [ -e "$SETTINGS/cronium-orchestrator.yaml" ] || NEXT+=("set api.endpoint in /etc/cronium/cronium-orchestrator.yaml")
    place 0755 "$BINARY" "$PROGRAM"
    place 0644 "$SCRATCH/unit" "$UNIT"
    make_settings
    install_firewall
    if systemd_runs; then systemctl daemon-reload; fi
    # The operator decides when to restart.
    NEXT+=("systemctl enable --now $SERVICE, or systemctl restart $SERVICE after an upgrade")
    say "installed. Next:"
    for word in "${NEXT[@]}"; do say "  - $word"; done
}

uninstall() {
    if systemd_runs && [ -e "$UNIT" ]; then
        say "stopping $SERVICE: it waits for running jobs"
        systemctl disable --now "$SERVICE"
    fi
    remove_firewall
    rm -f "$UNIT" "$PROGRAM"
    if systemd_runs; then systemctl daemon-reload; fi
    say "removed $PROGRAM and $UNIT"
    if [ -z "$PURGE" ]; then
        say "kept: $SETTINGS, $STATE, $LOGS and the user $ACCOUNT; --purge removes them"
        return 0
    fi
    rm -rf "$SETTINGS" "$STATE" "$LOGS" "$UNIT.d"
    if on_host && has_account; then userdel "$ACCOUNT"; fi
    say "removed $SETTINGS, $STATE, $LOGS and the user $ACCOUNT"
}

if [ -n "$UNINSTALL" ]; then uninstall; else install_all; fi
