# shellcheck shell=sh
# Starts MORE processes, more than the limit allows. In the plain shell, since Bash waits seconds before it believes that a
# fork was refused.
# shellcheck disable=SC2016 # For the inner shell.
exec /bin/sh -c '
    count=0
    while [ "$count" -lt "$MORE" ]; do
        sleep 20 >/dev/null 2>&1 &
        count=$((count + 1))
        echo "started $count"
    done
    echo "all $count"
'
