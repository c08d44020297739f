//! Clients that are processes of their own: this binary again, in one role.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::support::clients::{Stream, framed};

/// Says to the started binary what to do, and at which address.
const ROLE: &str = "CONNTALLY_TEST_CLIENT";

/// A running client, which is killed when this is dropped.
pub(super) struct Client {
    child: Child,
    _stdin: ChildStdin,
}

impl Client {
    /// What one of [`Client::start_torn`] writes.
    pub(super) const TORN_BYTES: usize = 3 * (4 + 12) + 4 + 8;

    fn start(role: &str, address: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hostile::role::act", "--ignored", "--nocapture"])
            .env(ROLE, format!("{role} {address}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        Self {
            child,
            _stdin: stdin,
        }
    }

    /// One that writes three frames and the beginning of a fourth, and then rests.
    pub(super) fn start_torn(address: &str) -> Self {
        Self::start("torn", address)
    }

    /// One with so many connections, each of which sends a line of `idle.sum` and then rests.
    pub(super) fn start_idle(address: &str, connections: usize) -> Self {
        Self::start(&connections.to_string(), address)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
#[ignore = "a role that other tests start in a process of its own"]
fn act() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let (role, address) = role.split_once(' ').unwrap();
    let mut open = Vec::new();
    if role == "torn" {
        let mut stream = Stream::connect(address);
        let frames = framed(b"torn.sum:1|c").repeat(3);
        let torn = &framed(b"torn.never:1|c")[..12];
        stream.write_all(&[&frames, torn].concat()).unwrap();
        open.push(stream);
    } else {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).unwrap();
        for _ in 0..role.parse().unwrap() {
            let mut stream = Stream::connect(address);
            stream.write_all(&framed(b"idle.sum:1|c")).unwrap();
            open.push(stream);
        }
    }
    // Until the test is gone.
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
