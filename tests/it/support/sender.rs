//! A sender that is a process of its own: this binary again, in one role. It ends when
//! its standard input does, so that none outlives its test.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Says to the started binary what to send, where to, and from which cgroup.
const ROLE: &str = "CONNTALLY_TEST_SEND";

/// A process that sends one line, and stays.
pub(crate) struct Sender(Child);

impl Sender {
    /// Starts one for `unixgram` or `unixstream`, in this cgroup, if one is named.
    #[track_caller]
    pub(crate) fn start(scheme: &str, socket: &Path, line: &str, cgroup: Option<&Path>) -> Self {
        let socket = socket.display().to_string();
        let cgroup = cgroup.map_or(String::new(), |path| path.display().to_string());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "support::sender::send", "--ignored"])
            .env(ROLE, [scheme, &socket, line, &cgroup].join("\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
#[ignore = "a role that other tests start in a process of its own"]
fn send() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let [scheme, socket, line, cgroup] = role.split('\n').collect::<Vec<_>>().try_into().unwrap();
    if !cgroup.is_empty() {
        let members = Path::new(cgroup).join("cgroup.procs");
        std::fs::write(members, std::process::id().to_string()).unwrap();
    }
    let mut stream;
    if scheme == "unixgram" {
        let client = UnixDatagram::unbound().unwrap();
        client.send_to(line.as_bytes(), socket).unwrap();
    } else {
        stream = UnixStream::connect(socket).unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
    // Until the test is gone: who is gone before it is looked at is nobody.
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
