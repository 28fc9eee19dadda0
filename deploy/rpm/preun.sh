# As deploy/debian/prerm. The first word is how many versions will be installed then.
if [ "$1" -eq 0 ]; then
    enabled=
    if [ -d /run/systemd/system ]; then
        enabled=$(systemctl list-units --all --plain --no-legend 'sgctl@*.service' |
            while read -r unit _; do
                ! systemctl --quiet is-enabled "$unit" || echo "$unit"
            done)
        systemctl disable sgctl@.service > /dev/null 2>&1 || :
        systemctl stop 'sgctl@*.service' || :
    fi
    if [ -d /sys/fs/bpf/sgctl ] && ! /usr/bin/sgctl detach >&2; then
        echo 'sgctl: not removed, because what is named above is still enforced' >&2
        for unit in $enabled; do
            systemctl enable --now "$unit" || :
        done
        exit 1
    fi
fi
