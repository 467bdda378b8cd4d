# jq, both kinds of awk, sort on several threads and with its temporary files, and what joins them.
set -eu
cd /workspace
seq 200000 | jq -c '{n: ., odd: (. % 2 == 1)}' >rows
jq -s 'map(select(.odd).n) | add' rows
mawk '{ n += length($0) } END { print n; system("true"); "date" | getline d; close("date") }' rows
gawk 'BEGIN { "echo x" |& getline v; print v; print strftime("%Y", 0) } END { print NR }' rows
sort -R rows | sort --parallel=2 -S 1M -T /workspace | sha256sum >/dev/null
find . -type f -print0 | xargs -0 -P 2 -n 1 wc -l >/dev/null
split -n l/4 rows part && cat parta? | cmp - rows
sed -i.old s/true/yes/ rows && ! diff -q rows rows.old >/dev/null
grep -rc yes . >/dev/null; comm rows rows.old | head -n 1 >/dev/null || true
tee copy <rows | tail -n 1; watch -h >/dev/null; ps aux >/dev/null; free >/dev/null; nproc; uptime >/dev/null; top -bn1 >/dev/null
dd if=/dev/zero of=zeros bs=1M count=4 conv=fsync status=none; stat -f . >/dev/null; ls -lZ >/dev/null; du -s . >/dev/null
flock lock timeout 1 true; nice ionice -c3 taskset 1 chrt -o 0 true; stdbuf -oL true; setsid true; fallocate -l 1M room; shred -u room
cp --reflink=auto --sparse=always -a rows kept; mktemp >/dev/null; mv kept moved; touch -d @0 moved; chmod 600 moved; sync moved
iconv -f UTF-8 -t UTF-16 moved | base64 | md5sum >/dev/null; env printf '%s\n' "$(uname -a)" >/dev/null; ulimit -a >/dev/null
echo end
