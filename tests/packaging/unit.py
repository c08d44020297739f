"""The daemon of a tree, as its unit would run it, in namespaces that the caller made."""

import os
import pathlib
import signal
import socket
import subprocess
import time

PATIENCE = 60
NOBODY = 65534
SOCKETS = {"dsd_stream.socket": 0o722, "dsd.socket": 0o722, "admin.sock": 0o660}


class Unit:
    """To be used in a `with`, at whose end it has stopped well."""

    def __init__(self, tree):
        self.tree = tree
        self.run = pathlib.Path(tree, "run/conntally")
        subprocess.run(["mount", "-t", "proc", "proc", f"{tree}/proc"], check=True)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    def __enter__(self):
        self.daemon = subprocess.Popen(
            ["setpriv", "--reuid=conntally", "--regid=conntally", "--clear-groups"]
            + ["--no-new-privs"]
            + [f"--{caps}=-all,+net_admin" for caps in ("inh-caps", "ambient-caps", "bounding-set")]
            + ["/usr/bin/conntally", "run"],
            preexec_fn=lambda: (os.chroot(self.tree), os.chdir("/")),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        until(lambda: all((self.run / name).exists() for name in SOCKETS), self.daemon)
        for name, mode in SOCKETS.items():
            found = (self.run / name).stat().st_mode & 0o777
            assert found == mode, f"{name}: {found:o}"
        return self

    def __exit__(self, *_):
        self.daemon.send_signal(signal.SIGTERM)
        code = self.daemon.wait(PATIENCE)
        assert code == 0, code
        assert not any((self.run / name).exists() for name in SOCKETS), "sockets stay behind"

    def send_as_nobody(self):
        """What any program may: a count by each of the two sockets."""
        sender = os.fork()
        if sender == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stream.connect(f"{self.run}/dsd_stream.socket")
            stream.sendall(b"by.stream:1|c\n")
            datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            datagrams.sendto(b"by.datagram:1|c", f"{self.run}/dsd.socket")
            os._exit(0)
        _, status = os.waitpid(sender, 0)
        assert status == 0, f"the sender: {status}"


def until(holds, process):
    """Waits until it holds, while the process lives."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert process.poll() is None, f"{process.args[0]} has ended: {process.returncode}"
        assert time.monotonic() < deadline, f"not within {PATIENCE} s, of {process.args[0]}"
        time.sleep(0.05)
