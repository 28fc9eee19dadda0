# As deploy/debian/postrm, but for policies: a removal leaves those that a person has written.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
