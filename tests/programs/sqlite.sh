# A database with a write-ahead log, which two processes use at once.
set -eu
cd /workspace
sqlite3 db 'pragma journal_mode = wal; create table t (n integer primary key, s text);'
fill() { for n in $(seq 20); do sqlite3 -cmd '.timeout 20000' db "insert into t (s) select hex(randomblob(50)) from generate_series(1, 100);"; done; }
fill & fill & wait
sqlite3 db 'select count(*) from t; create index i on t (s); vacuum; pragma integrity_check;' '.backup copy'
sqlite3 copy 'pragma mmap_size = 100000000; pragma temp_store = file; select count(distinct s) from t;' 'pragma journal_mode = delete'
sqlite3 -csv copy 'select * from t' | sqlite3 :memory: 'create table u (n, s)' '.mode csv' '.import /dev/stdin u' 'select count(*) from u'
echo end
