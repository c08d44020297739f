if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    # The service alone: sockets that conntally.socket holds stay, and connections with them.
    if [ "$1" -ge 1 ]; then
        systemctl try-restart conntally.service || :
    fi
fi
# cargo-generate-rpm cannot say that a directory is the package's.
if [ "$1" -eq 0 ]; then
    rmdir /usr/share/conntally/conntally.service.d /usr/share/conntally/dashboards \
        /usr/share/conntally /usr/share/doc/conntally/examples /usr/share/doc/conntally \
        /usr/share/licenses/conntally /etc/conntally/conf.d /etc/conntally 2>/dev/null || :
fi
