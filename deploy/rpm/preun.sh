# As deploy/debian/prerm. The first word is how many versions will be installed then.
if [ "$1" -eq 0 ]; then
    if [ -d /run/systemd/system ]; then
        systemctl disable sgctl@.service > /dev/null 2>&1 || :
        systemctl stop 'sgctl@*.service' || :
    fi
    if [ -d /sys/fs/bpf/sgctl ] && ! /usr/bin/sgctl detach >&2; then
        echo 'sgctl: not removed, because what is named above is still enforced' >&2
        exit 1
    fi
fi
