# shellcheck shell=bash
# Two processes that are busy for a second each, on a fraction of a core; then what they got, and how often the kernel
# held them up. Where others keep the cores busy, they may not come to their limit at once: then again, four times at most.
held() { awk '$1 == "nr_throttled" {sum += $2} END {print sum}' "${files[@]}"; }
files=()
for file in /sys/fs/cgroup/cpu.stat /sys/fs/cgroup/cpu/cpu.stat; do [ ! -r "$file" ] || files+=("$file"); done
rounds=0
while [ "$rounds" -lt 4 ]; do
    rounds=$((rounds + 1))
    for _ in 1 2; do timeout 1 sh -c 'while :; do :; done' & done
    wait
    if [ "${#files[@]}" -eq 0 ] || [ "$(held)" -gt 0 ]; then break; fi
done
echo "rounds $rounds"
# The second line: user and system time of this shell's children, as 0m0.123s. A pipe would ask another shell.
times >/workspace/.times
echo "used $(tail -n 1 /workspace/.times)"
[ "${#files[@]}" -eq 0 ] || echo "held $(held)"
