//! The firewall that is shipped, with real packets between network namespaces that end with the test.

use std::collections::BTreeMap;
use std::process::Command;

use crate::harness::{Folder, shared};

const RULES: &str = include_str!("../../configs/firewall/cronium-jobs.nft");
const ALLOW: &str = include_str!("../../configs/firewall/cronium-jobs-allow.nft");

/// A host with the bridge `cronium0`, a job behind it, and a machine outside that has all the other addresses. All of it is
/// in namespaces of this shell's, which nobody else sees and which are gone with it.
const HOUSE: &str = r#"
set -eu
space() { unshare --net sleep 100 & until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.02; done; }
space; job=$!
space; outside=$!
in_job() { nsenter --net --target "$job" "$@"; }
in_outside() { nsenter --net --target "$outside" "$@"; }
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
ip link set lo up
ip link add cronium0 type bridge
ip addr add 172.30.0.1/24 dev cronium0
ip addr add 2001:db8:1::1/64 dev cronium0 nodad
ip link add j0 type veth peer name eth0 netns "$job"
ip link set j0 master cronium0 up
ip link set cronium0 up
in_job ip addr add 172.30.0.2/24 dev eth0
in_job ip addr add 2001:db8:1::2/64 dev eth0 nodad
in_job ip link set eth0 up
in_job ip route add default via 172.30.0.1
in_job ip route add default via 2001:db8:1::1
ip link add o0 type veth peer name eth0 netns "$outside"
ip addr add 203.0.113.1/24 dev o0
ip addr add 2001:db8:2::1/64 dev o0 nodad
ip link set o0 up
in_outside ip addr add 203.0.113.7/24 dev eth0
in_outside ip addr add 2001:db8:2::7/64 dev eth0 nodad
in_outside ip link set lo up
in_outside ip link set eth0 up
in_outside ip route add default via 203.0.113.1
in_outside ip route add default via 2001:db8:2::1
for to in 169.254.169.254 100.100.100.200 10.20.0.7 10.20.0.8 192.168.7.7; do
    in_outside ip addr add $to/32 dev lo; ip route add $to via 203.0.113.7; done
for to in fd00:ec2::254 fd12::7; do in_outside ip addr add $to/128 dev lo; ip route add $to via 2001:db8:2::7; done
cat >"$FOLDER/listen.py" <<'EOF'
import select, socket
servers = [socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) for port in (53, 80)]
while True:
    for server in select.select(servers, [], [])[0]: server.accept()[0].close()
EOF
cat >"$FOLDER/dial.py" <<'EOF'
import socket, sys, threading
def dial(to, port):
    try: socket.create_connection((to, port), 1.5).close(); print(f"{sys.argv[1]} {to} {port} open\n", end="")
    except TimeoutError: print(f"{sys.argv[1]} {to} {port} dropped\n", end="")
for to in sys.argv[2:]:
    for port in (53, 80): threading.Thread(target=dial, args=(to, port)).start()
EOF
python3 "$FOLDER/listen.py" &
in_outside python3 "$FOLDER/listen.py" &
sleep 0.7
dial() { in_job python3 "$FOLDER/dial.py" "$1" 203.0.113.7 203.0.113.1 172.30.0.1 169.254.169.254 100.100.100.200 10.20.0.7 10.20.0.8 \
    192.168.7.7 2001:db8:2::7 2001:db8:2::1 fd00:ec2::254 fd12::7; }
load() { sed "s/^define mode = .*/define mode = $1/" "$FOLDER/rules.nft" >"$FOLDER/$1.nft" && nft -f "$FOLDER/$1.nft"; }
dial none
load metadata; dial metadata
load strict; dial strict
# Another destination for what is addressed to the metadata service, and for a public address, as Docker does with ports.
nft add table ip other
nft add chain ip other nat '{ type nat hook prerouting priority dstnat; }'
nft add rule ip other nat ip daddr 169.254.169.254 tcp dport 80 dnat to 203.0.113.7
nft add rule ip other nat ip daddr 203.0.113.9 tcp dport 80 dnat to 192.168.7.7
in_job python3 "$FOLDER/dial.py" nat 169.254.169.254 203.0.113.9
nft delete table ip other
# What Docker, firewalld and iptables' users do to their own rules.
iptables -A FORWARD -j ACCEPT; iptables -t nat -A PREROUTING -j ACCEPT
for table in filter nat mangle raw; do iptables -t $table -F; iptables -t $table -X; done
printf '*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n' | iptables-restore
nft -f - <<'EOF'
table inet firewalld
delete table inet firewalld
table inet firewalld {
    chain forward { type filter hook forward priority filter + 10; policy accept; }
}
EOF
load strict; load strict
dial reloaded
nft -j list table inet cronium_jobs | tr '{' '\n' | grep -c '"jump"' | sed 's/^/jumps /'
nft delete table inet cronium_jobs
dial removed
kill $(jobs -p)
"#;

#[test]
fn metadata_private_ranges_and_the_host_are_closed_and_an_exception_is_open() {
    let _machine = shared();
    let folder = Folder::new();
    let place = |name: &str| folder.path().join(name);
    let (installed, here) = ("/etc/cronium/cronium-jobs-allow.nft", place("allow.nft"));
    assert!(RULES.contains(installed));
    std::fs::write(place("rules.nft"), RULES.replace(installed, here.to_str().expect("text"))).expect("write");
    // The examples of the file, for the addresses of the house.
    let allow = ALLOW
        .replace("# ip daddr 10.0.0.2 ", "ip daddr { 169.254.169.254, 203.0.113.1 } ")
        .replace("# ip daddr 10.20.0.7 tcp dport 5432", "ip daddr 10.20.0.7 tcp dport 80");
    assert_eq!(allow.lines().filter(|line| line.trim_start().starts_with("ip daddr")).count(), 2);
    std::fs::write(here, allow).expect("write");
    let output = Command::new("unshare")
        .args(["--net", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", "bash", "-c", HOUSE])
        .env("FOLDER", folder.path())
        .output()
        .expect("unshare, from util-linux");
    let said = String::from_utf8_lossy(&output.stdout);
    let all = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "needs nftables, iptables, iproute2, python3: {all}");

    let mut open: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for line in said.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [phase, to, port, state] = words[..] else { continue };
        let list = open.entry(phase).or_default();
        if state == "open" {
            list.push(format!("{to} {port}"));
        }
    }
    open.values_mut().for_each(|list| list.sort());
    let everything = open["none"].clone();
    assert_eq!(everything.len(), 24, "the house is not whole: {all}");
    let closed = |phase: &str| {
        let left = everything.iter().filter(|each| !open[phase].contains(each));
        left.map(String::as_str).collect::<Vec<_>>()
    };
    let metadata =
        ["100.100.100.200 53", "100.100.100.200 80", "169.254.169.254 80", "fd00:ec2::254 53", "fd00:ec2::254 80"];
    assert_eq!(closed("metadata"), metadata, "{all}");
    let strict = ["10.20.0.7 80", "169.254.169.254 53", "2001:db8:2::7 53", "2001:db8:2::7 80", "203.0.113.1 53"];
    let outside = ["203.0.113.7 53", "203.0.113.7 80"];
    assert_eq!(open["strict"], [&strict[..], &outside].concat(), "{all}");
    assert_eq!(open["nat"], ["169.254.169.254 53"], "{all}");
    assert_eq!(open["reloaded"], open["strict"], "{all}");
    // Three base chains, and one in each mode's: a second load adds nothing.
    assert!(said.contains("jumps 5\n"), "{all}");
    assert_eq!(open["removed"], everything, "{all}");
}

/// A host whose `/etc` and `/run` are copies that go with the shell, and what the firewall's container does there.
const KEEPER: &str = r#"
set -eu
mount -t tmpfs tmpfs "$FOLDER"
cd "$FOLDER" && mkdir -p up work usr/sbin usr/share/cronium-agent
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$FOLDER/up,workdir=$FOLDER/work" /etc
mount -t tmpfs tmpfs /run
mkdir -p /run/cronium-firewall
printf 'nameserver 169.254.20.10\n' >resolv.conf
rm -f /etc/resolv.conf && cp resolv.conf /etc/resolv.conf
cp "$SOURCES/scripts/firewall.sh" usr/sbin/cronium-firewall
cp "$SOURCES"/configs/firewall/*.nft "$SOURCES"/configs/systemd/*.conf usr/share/cronium-agent/
export PATH="$FOLDER/usr/sbin:$PATH" PAUSE=0.1
stands() { nft list chain inet cronium_jobs prerouting 2>/dev/null | grep -o 'jump [a-z]*' || echo none; }
MODE=strict "$SOURCES/configs/firewall/keep.sh" once
echo "once $(stands)"
[ ! -e /run/cronium-firewall/loaded ]
nft list chain inet cronium_jobs allowed | grep -c 169.254.20.10
nft flush ruleset
"$SOURCES/configs/firewall/keep.sh" & keeper=$!
until [ -e /run/cronium-firewall/loaded ]; do sleep 0.05; done
echo "kept $(stands)"
nft flush ruleset
echo "flushed $(stands)"
until [ "$(stands)" != none ]; do sleep 0.05; done
echo "again $(stands)"
kill "$keeper"; code=0; wait "$keeper" || code=$?
echo "ended $code $(stands)"
"#;

#[test]
fn the_firewalls_container_loads_the_rules_keeps_them_and_leaves_them() {
    let _machine = shared();
    let folder = Folder::new();
    let output = Command::new("timeout")
        .args([
            "60",
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child=KILL",
            "bash",
            "-c",
            KEEPER,
        ])
        .env("FOLDER", folder.path())
        .env("SOURCES", env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("unshare, from util-linux");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    let wanted = "once jump strict\n1\nkept jump metadata\nflushed none\nagain jump metadata\nended 0 jump metadata\n";
    assert!(output.status.success() && said == wanted, "needs nftables: {said}{error}");
}
