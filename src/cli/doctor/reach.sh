# shellcheck shell=bash
# Tries to connect to another job at PEER, PORT.
echo "interfaces $(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort | tr '\n' ' ')"
echo "own $(hostname -i 2>/dev/null)"
# shellcheck disable=SC2016 # For the inner shell.
if words=$(timeout 1 bash -c ': <"/dev/tcp/$0/$1"' "$PEER" "$PORT" 2>&1); then echo "reached yes"; else
    words=$(printf '%s\n' "${words##*: }" | head -n 1)
    echo "reached no: ${words:-no answer within 1 s}"
fi
echo "end of-reach"
