# PostgreSQL's client, as far as it goes without a server.
set -eu
psql --version && pg_dump --version
psql -h 127.0.0.1 -p 1 -c 'select 1' 2>/workspace/said && exit 1
grep -q 'Connection refused' /workspace/said
psql -h /workspace -c 'select 1' 2>/workspace/said && exit 1
grep -q 'No such file' /workspace/said
echo end
