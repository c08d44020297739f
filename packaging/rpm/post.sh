systemd-sysusers conntally.conf || :
if [ -d /run/systemd/system ]; then
    systemd-tmpfiles --create conntally.conf || :
    systemctl daemon-reload || :
fi
if [ "$1" -eq 1 ]; then
    systemctl --no-reload preset conntally.service conntally.socket >/dev/null 2>&1 || :
fi
