# tar with each packer, several threads of zstd and xz, attributes and holes.
set -eu
cd /workspace
mkdir -p in/deep && seq 400000 >in/deep/numbers && head -c 2000000 /dev/urandom >in/noise
truncate -s 5M in/hole && ln -s deep/numbers in/link && ln in/noise in/twin && mkfifo in/fifo
for packer in 'zstd -q -T0' 'zstd -q -T2 -9' 'xz -T2 -1' gzip bzip2; do
    rm -rf out && mkdir out
    tar --sparse --xattrs --acls -I "$packer" -cf packed in
    tar --xattrs --acls -I "$packer" -C out -xpf packed
    diff -r --no-dereference in/deep out/in/deep && cmp in/noise out/in/twin && [ "$(readlink out/in/link)" = deep/numbers ]
done
tar -cf - in | tar -tvf - | wc -l
zstd -q --patch-from=in/deep/numbers in/noise -o patch && zstd -q -t patch --patch-from=in/deep/numbers
echo end
