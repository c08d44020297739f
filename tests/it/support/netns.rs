//! Network namespaces that a test makes for itself.
//!
//! As root, a thread of its own is moved into a new namespace. As anybody else, the
//! test binary starts itself again under `unshare -Urn`, for that test alone: a
//! process with threads cannot enter a new user namespace. Where neither works, the
//! test is skipped, loudly; with `CI` in the environment, it fails.

use std::any::type_name;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use tokio::time::Instant;

/// Set in the environment of a test binary that was started by its own test.
const INSIDE: &str = "CONNTALLY_TEST_INSIDE_NETNS";

/// libtest's exit code for a test that failed.
const TEST_FAILED: i32 = 101;

/// The longest wait of [`eventually`].
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test's body in a network namespace of its own with `lo` up, if the programs
/// that it needs are there. To be called with a closure written in the test function
/// itself, whose name tells which test to start again.
pub(crate) fn isolated<F: FnOnce() + Send>(programs: &[&str], body: F) {
    let test = test_name::<F>();
    for program in ["ip"].iter().chain(programs) {
        if !is_installed(program) {
            return skip(test, &format!("{program} is not installed"));
        }
    }
    let refused = thread::scope(|scope| {
        let inside = scope.spawn(|| -> io::Result<()> {
            enter_new()?;
            run("ip link set lo up");
            body();
            Ok(())
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    match refused {
        Ok(()) => {}
        Err(error) if std::env::var_os(INSIDE).is_some() => {
            skip(test, &format!("no new network namespace: {error}"));
        }
        Err(_) => again_in_user_namespace(test),
    }
}

/// Polls until the condition holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a program, words split at white space, in the thread's namespace; its output.
#[track_caller]
pub(crate) fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap();
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Loads nft rules into the thread's namespace.
#[track_caller]
pub(crate) fn nft(rules: &str) {
    let output = Command::new("nft").arg(rules).output().unwrap();
    assert!(
        output.status.success(),
        "nft {rules}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Tracks connections: a rule that asks for their state makes the kernel follow them.
pub(crate) fn track() {
    nft(
        "table inet track { chain output { type filter hook output priority 0; \
         ct state established accept; }; }",
    );
}

/// A second network namespace, mostly at the other end of a cable.
#[derive(Debug)]
pub(crate) struct Peer {
    namespace: File,
}

impl Peer {
    /// Addresses of the cable's ends, here and there.
    pub(crate) const HERE: [&'static str; 2] = ["10.99.0.1", "fd99::1"];
    pub(crate) const THERE: [&'static str; 2] = ["10.99.0.2", "fd99::2"];

    /// Makes it, without a cable.
    pub(crate) fn apart() -> Self {
        let made = thread::spawn(|| {
            enter_new().unwrap();
            run("ip link set lo up");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self {
            namespace: made.join().unwrap(),
        }
    }

    /// A file that leads to it, for processes of the same user.
    pub(crate) fn path(&self) -> String {
        let descriptor = self.namespace.as_raw_fd();
        format!("/proc/{}/fd/{descriptor}", std::process::id())
    }

    /// Makes it, with a veth pair to the thread's namespace, addresses on both ends.
    pub(crate) fn connected() -> Self {
        Self::cabled("veth", Self::HERE, Self::THERE)
    }

    /// The same by a cable of this name, with these addresses, IPv4 and IPv6 each.
    pub(crate) fn cabled(cable: &str, here: [&str; 2], there: [&str; 2]) -> Self {
        let peer = Self::apart();
        run(&format!(
            "ip link add {cable}0 type veth peer name {cable}1 netns {}",
            peer.path()
        ));
        bring_up(&format!("{cable}0"), here);
        peer.run(|| bring_up(&format!("{cable}1"), there));
        peer
    }

    /// Runs something there; sockets that it opens stay there.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.namespace.as_fd(), kind).unwrap();
                body()
            });
            there
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn bring_up(link: &str, [v4, v6]: [&str; 2]) {
    run(&format!("ip address add {v4}/24 dev {link}"));
    run(&format!("ip address add {v6}/64 dev {link} nodad"));
    run(&format!("ip link set {link} up"));
}

/// Moves the thread into a new network namespace.
#[expect(unsafe_code, reason = "rustix offers unshare(2) in no other way")]
pub(crate) fn enter_new() -> io::Result<()> {
    // SAFETY: the network namespace is the thread's own affair; descriptors stay shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(io::Error::from)
}

/// Starts the test alone in a user namespace where it is root.
fn again_in_user_namespace(test: &str) {
    if !is_installed("unshare") {
        return skip(test, "not root, and unshare(1) is not installed");
    }
    let status = Command::new("unshare")
        .args(["-Urn", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    match status.code() {
        Some(0) => {}
        Some(TEST_FAILED) => panic!("{test} failed in its user namespace; see above"),
        _ => skip(test, "not root, and user namespaces are forbidden"),
    }
}

fn skip(test: &str, why: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "{test} may not be skipped here: {why}"
    );
    // libtest hides what the print macros write.
    let line = format!("SKIPPED: {test}: {why}\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
}

/// `it::module::name::{{closure}}`, without its first and last part.
fn test_name<F>() -> &'static str {
    let name = type_name::<F>();
    let name = name.split_once("::").map_or(name, |(_, rest)| rest);
    name.strip_suffix("::{{closure}}").unwrap_or(name)
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
