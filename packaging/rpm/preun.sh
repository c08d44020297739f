if [ "$1" -eq 0 ]; then
    systemctl --no-reload disable conntally.service conntally.socket >/dev/null 2>&1 || :
    if [ -d /run/systemd/system ]; then
        systemctl stop conntally.service conntally.socket || :
    fi
fi
