# Keys, the agent of OpenSSH, a session, a terminal and files on a real server, and a server that is not there.
set -eu
cd /workspace
trap 'kill $(jobs -p) $SSH_AGENT_PID' EXIT
ssh -V
for kind in ed25519 rsa ecdsa; do ssh-keygen -q -t $kind -N '' -f $kind; done
ssh -o BatchMode=yes -p 1 127.0.0.1 2>said && exit 1
grep -q 'Connection refused' said
eval "$(ssh-agent)" >/dev/null
ssh-add -q ed25519 && ssh-add -l >/dev/null
cp ed25519.pub allowed && echo "[127.0.0.1]:8022 $(cat ecdsa.pub)" >known
/usr/sbin/sshd -D -e -f /dev/null -p 8022 -h /workspace/ecdsa -o ListenAddress=127.0.0.1 -o AuthorizedKeysFile=/workspace/allowed \
    -o StrictModes=no -o UsePAM=no -o PidFile=none -o Subsystem='sftp internal-sftp' 2>sshd.log &
say="-o BatchMode=yes -o UserKnownHostsFile=/workspace/known"
for try in $(seq 50); do ssh $say -p 8022 127.0.0.1 true 2>>said && break; sleep 0.2; done
ssh $say -p 8022 127.0.0.1 'echo $((6 * 7))' || { cat said sshd.log; exit 1; }
ssh $say -C -o ControlMaster=yes -o ControlPath=/workspace/mux -o ControlPersist=3 -p 8022 127.0.0.1 true
ssh $say -o ControlPath=/workspace/mux -p 8022 127.0.0.1 'seq 20000' | tail -n 1
scp -q $say -P 8022 said 127.0.0.1:/workspace/copied && cmp said copied
echo 'get copied again' | sftp -q $say -P 8022 127.0.0.1 >/dev/null && cmp copied again
echo end
