# What shells do with the kernel.
set -eu
cd /workspace
mkdir -p a/b && echo text > a/b/c && tar -czf a.tar.gz a && rm -r a && tar -xzf a.tar.gz && cat a/b/c
find . -name c -exec grep -c text {} \;
mkfifo p && (echo through > p &) && cat p
id > /dev/null; df /workspace > /dev/null; date > /dev/null
(sleep 5 & kill $!; wait $! || true)
timeout 0.1 sleep 5 || echo timed
sort -R < /proc/self/status | sort | head -n 1 > /dev/null
trap 'echo heard' USR1; kill -USR1 $$
for i in 1 2 3; do (sleep 0.01; echo $i) & done | sort; wait
seq 1000 | jq -s add
curl -s file:///workspace/a/b/c; curl -s http://127.0.0.1:1/ || [ $? = 7 ]
echo end
