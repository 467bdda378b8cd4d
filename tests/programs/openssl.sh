# Keys, certificates, ciphers, a handshake and several processes.
set -eu
cd /workspace
trap 'kill $(jobs -p)' EXIT
openssl genpkey -algorithm ED25519 -out ed && openssl pkey -in ed -pubout >/dev/null
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out cert -days 2 -subj /CN=localhost 2>/dev/null
seq 100000 >text
openssl enc -aes-256-cbc -pbkdf2 -pass pass:x -in text -out sealed && openssl enc -d -aes-256-cbc -pbkdf2 -pass pass:x -in sealed | cmp - text
openssl dgst -sha256 -sign key -out signed text && openssl x509 -in cert -pubkey -noout >public
openssl dgst -sha256 -verify public -signature signed text
openssl pkcs12 -export -inkey key -in cert -passout pass:x -out p12 && openssl pkcs12 -in p12 -passin pass:x -nodes >/dev/null
openssl s_server -accept 127.0.0.1:8444 -key key -cert cert -www >/dev/null 2>&1 &
for try in $(seq 50); do openssl s_client -connect 127.0.0.1:8444 -CAfile cert -verify_return_error </dev/null >said 2>&1 && break; sleep 0.2; done
grep -q 'Verify return code: 0' said
openssl speed -seconds 1 -multi 2 sha256 >/dev/null 2>&1
openssl rand -hex 8 | wc -c
echo end
