# Git over a file, over plain files by HTTP, and over HTTP with Git's own server.
set -eu
cd /workspace
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com
trap 'kill $(jobs -p)' EXIT
git init -q -b main origin
for n in 1 2 3 4 5; do seq $n 5000 >origin/file$n && git -C origin add . && git -C origin commit -qm "commit $n"; done
git -C origin gc -q
git clone -q file:///workspace/origin by-file
mkdir served && git clone -q --bare origin served/bare.git
git -C served/bare.git update-server-info
git -C served/bare.git config http.receivepack true
mkdir -p served/cgi-bin
printf '#!/bin/sh\nexport GIT_PROJECT_ROOT=/workspace/served GIT_HTTP_EXPORT_ALL=1\nexec git http-backend\n' >served/cgi-bin/git
chmod +x served/cgi-bin/git
python3 -m http.server --cgi --bind 127.0.0.1 --directory /workspace/served 8000 2>http.log &
curl -s --retry 50 --retry-delay 1 --retry-connrefused -o /dev/null http://127.0.0.1:8000/
GIT_SMART_HTTP=0 git clone -q http://127.0.0.1:8000/bare.git by-files
git clone -q http://127.0.0.1:8000/cgi-bin/git/bare.git by-http
cd by-http
git switch -qc other && echo more >more && git add more && git commit -qm more
git push -q origin other
git switch -q main && git merge -q other && git rebase -q HEAD~2
git worktree add -q ../tree other && git stash list && git grep -c 4999 >/dev/null
git log --oneline | wc -l && git fsck --full 2>/dev/null && cmp file5 ../by-files/file5 && cmp file5 ../by-file/file5
echo end
