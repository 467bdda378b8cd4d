#!/bin/sh
# prepare.sh PACKAGES -- COMMANDS
#
# The one build step of the three runtime images. It runs as root in the build stage, so it is plain POSIX sh
# and works with busybox as well as with Debian's tools. On Alpine it installs PACKAGES with apk. Any other base
# has to bring them along; COMMANDS are then what must be found on PATH, and a missing one stops the build.
#
# The end state, which scripts/build-images.sh checks in the finished image: user runner (1000:1000) who owns
# /workspace, no file that changes who you are (setuid, setgid), and no way to install anything.
set -eu

packages=
while [ $# -gt 0 ] && [ "$1" != -- ]; do packages="$packages $1"; shift; done
[ $# -eq 0 ] || shift

if command -v apk >/dev/null 2>&1; then
    # shellcheck disable=SC2086 # a list of names, split on purpose
    apk add --no-cache $packages
fi
for name in "$@"; do
    command -v "$name" >/dev/null 2>&1 || {
        echo "prepare.sh: the base image has no '$name' and no apk to install it with; add it to the base" >&2
        exit 1
    }
done

# Written by hand because adduser (busybox), adduser (Debian) and useradd share no syntax.
for file in passwd group shadow; do
    [ -f "/etc/$file" ] || continue
    grep -v '^runner:' "/etc/$file" | awk -F: -v f="$file" 'f == "shadow" || $3 != 1000' > /etc/.new
    cat /etc/.new > "/etc/$file"
done
rm -f /etc/.new
echo 'runner:x:1000:1000:Cronium job:/workspace:/bin/sh' >> /etc/passwd
echo 'runner:x:1000:' >> /etc/group
[ ! -f /etc/shadow ] || echo 'runner:!:20000:0:99999:7:::' >> /etc/shadow
mkdir -p /workspace
chown 1000:1000 /workspace
chmod 0700 /workspace

find / -xdev \( -type f -o -type d \) \( -perm -4000 -o -perm -2000 \) -exec chmod ug-s {} +

# Documents, caches and service files that no script reads.
rm -rf /etc/systemd /usr/lib/systemd /usr/share/polkit-1 /usr/share/bash-completion /usr/share/zoneinfo/right \
       /usr/share/doc /usr/share/man /usr/share/info /usr/share/locale /usr/share/lintian /usr/share/bug \
       /var/log/* /var/cache/* /root/.cache /root/.npm /debootstrap

# Other languages' package managers, where a base brings them.
rm -rf /usr/lib/node_modules /usr/local/lib/node_modules /usr/share/nodejs/npm /usr/share/nodejs/corepack /usr/share/nodejs/@types
rm -f /usr/bin/npm /usr/bin/npx /usr/bin/corepack /usr/local/bin/npm /usr/local/bin/npx /usr/local/bin/corepack \
      /usr/bin/pip /usr/bin/pip3* /usr/local/bin/pip*
for dir in /usr/lib/python3* /usr/local/lib/python3*; do
    [ -d "$dir" ] || continue
    rm -rf "$dir"/ensurepip "$dir"/site-packages/pip* "$dir"/dist-packages/pip*
    find "$dir" -name __pycache__ -type d -prune -exec rm -rf {} +
done

# The system's package manager goes last: nothing after this line may need it.
rm -rf /etc/apk /lib/apk /usr/lib/apk /usr/share/apk /var/lib/apk /usr/lib/libapk.so* /lib/libapk.so* \
       /etc/apt /etc/dpkg /usr/lib/apt /usr/lib/dpkg /usr/libexec/dpkg /usr/share/dpkg /var/lib/apt /var/lib/dpkg \
       /var/lib/pam /var/lib/systemd/deb-systemd* /usr/share/debconf /usr/share/perl5/Debconf /usr/share/perl5/Debian \
       /etc/debconf.conf /etc/cron.daily /etc/logrotate.d /etc/kernel
rm -f /usr/lib/*/libapt-*.so* /usr/bin/apt /usr/bin/apt-* /usr/bin/dpkg /usr/bin/dpkg-* /usr/bin/deb-systemd-* \
      /usr/sbin/dpkg-* /usr/bin/debconf* /usr/sbin/add-shell /usr/sbin/remove-shell /usr/bin/update-alternatives \
      /usr/sbin/dselect /usr/bin/dselect /sbin/apk /usr/sbin/apk /usr/bin/apk
