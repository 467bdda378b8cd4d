# HTTPS with a certificate made here, several transfers at once, and a server that is not there.
set -eu
cd /workspace
trap 'kill $(jobs -p)' EXIT
openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null
head -c 3000000 /dev/urandom >data
openssl s_server -quiet -accept 127.0.0.1:8443 -key key -cert cert -WWW 2>/dev/null &
curl -sS -4 --retry 50 --retry-delay 1 --retry-connrefused --cacert cert -o got https://localhost:8443/data
cmp data got
curl -sS --cacert cert --no-progress-meter -Z https://localhost:8443/data -o one https://localhost:8443/data -o two
cmp one two
curl -s https://localhost:8443/data && exit 1 || [ $? = 60 ]
curl -s http://127.0.0.1:1/ && exit 1 || [ $? = 7 ]
curl -s http://name.invalid/ && exit 1 || [ $? = 6 ]
curl -sS --compressed -r 0-9 file:///workspace/data | wc -c
echo end
