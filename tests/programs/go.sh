# Two programs in Go: restic keeps and gives back a tree, and the registry serves over HTTP.
set -eu
cd /workspace
trap 'kill $(jobs -p)' EXIT
mkdir -p in/deep && seq 200000 >in/deep/numbers && head -c 2000000 /dev/urandom >in/noise && ln -s noise in/link
export RESTIC_REPOSITORY=/workspace/kept RESTIC_PASSWORD=x
restic init -q && restic backup -q in && echo more >>in/deep/numbers && restic backup -q in
restic check -q && restic snapshots --json | jq length
restic restore -q latest --target out && diff -r --no-dereference in out/in
printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: /workspace/registry}}\nhttp: {addr: "127.0.0.1:8500"}\n' >conf
docker-registry serve conf >log 2>&1 &
curl -s --retry 50 --retry-delay 1 --retry-connrefused http://127.0.0.1:8500/v2/_catalog
place=$(curl -sS -X POST -D - http://127.0.0.1:8500/v2/x/blobs/uploads/ | tr -d '\r' | awk '/^Location:/ {print $2}')
curl -sS -X PUT --data-binary @in/noise -H 'Content-Type: application/octet-stream' "$place&digest=sha256:$(sha256sum in/noise | cut -d ' ' -f 1)"
curl -sS "http://127.0.0.1:8500/v2/x/blobs/sha256:$(sha256sum in/noise | cut -d ' ' -f 1)" | cmp - in/noise
echo end
