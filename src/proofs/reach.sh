# shellcheck shell=bash
# Tries to connect to another job at PEER, PORT.
echo "interfaces $(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort | tr '\n' ' ')"
echo "own $(hostname -i 2>/dev/null)"
# shellcheck disable=SC2016 # For the inner shell.
if words=$(timeout 1 bash -c ': <"/dev/tcp/$0/$1"' "$PEER" "$PORT" 2>&1); then echo "reached yes"; else
    words=$(printf '%s\n' "${words##*: }" | head -n 1)
    echo "reached no: ${words:-no answer within 1 s}"
fi
# The gateway: by the default route, or, where there is none, the first address of the network.
gateway=
while read -r _ destination by _; do
    if [ "$destination" = 00000000 ]; then gateway=$by; break; fi
    if [ -z "$gateway" ] && [ "$by" = 00000000 ]; then gateway=$(printf '%08X' $((0x$destination + 0x1000000))); fi
done < <(tail -n +2 /proc/net/route)
if [ -n "$gateway" ] && [ -n "$HOST_PORT" ]; then
    gateway=$((0x${gateway:6:2})).$((0x${gateway:4:2})).$((0x${gateway:2:2})).$((0x${gateway:0:2}))
    # shellcheck disable=SC2016 # For the inner shell.
    if words=$(timeout 1 bash -c ': <"/dev/tcp/$0/$1"' "$gateway" "$HOST_PORT" 2>&1); then echo "host open $gateway"; else
        words=$(printf '%s\n' "${words##*: }" | head -n 1)
        echo "host closed $gateway: ${words:-no answer within 1 s}"
    fi
fi
echo "end of-reach"
