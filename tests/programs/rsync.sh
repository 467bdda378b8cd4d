# A copy of a tree, and one over rsync's own server.
set -eu
cd /workspace
trap 'kill $(jobs -p)' EXIT
mkdir -p in/deep && seq 200000 >in/deep/numbers && ln in/deep/numbers in/twin && ln -s twin in/link && truncate -s 3M in/hole
rsync -aHAXS in/ out/ && echo changed >>in/deep/numbers && touch out/superfluous
rsync -aHAXS --delete --checksum in/ out/ && diff -r in out
printf 'use chroot = no\nmunge symlinks = no\n[all]\npath = /workspace\nread only = no\n' >conf
rsync --daemon --no-detach --config=conf --address=127.0.0.1 --port=8873 &
for try in $(seq 50); do rsync -az rsync://127.0.0.1:8873/all/in/ by-net/ 2>/dev/null && break; sleep 0.2; done
diff -r in by-net
rsync -a --inplace --partial --bwlimit=50m in/ rsync://127.0.0.1:8873/all/pushed/ && diff -r in pushed
echo end
