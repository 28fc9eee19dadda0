# As deploy/debian/postinst. The first word is how many versions are installed then.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -ge 2 ]; then
        systemctl list-units --plain --no-legend --state=active 'sgctl@*.service' |
            while read -r unit _; do
                if ! systemctl --quiet is-enabled "$unit"; then
                    echo "sgctl: $unit is not enabled and still runs the version before" >&2
                elif ! systemctl try-restart "$unit"; then
                    echo "sgctl: $unit did not start again; what was in force stays in force:" \
                        "see systemctl status $unit" >&2
                fi
            done
    fi
fi
