# As deploy/debian/postrm, but for policies: a removal leaves those that a person has written.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
# The package has files only. Folders go if nothing is left in them.
if [ "$1" -eq 0 ]; then
    rmdir /usr/share/doc/sgctl/* /usr/share/doc/sgctl /etc/sgctl 2> /dev/null || :
fi
