//! A daemon whose memory runs short: an output holds what senders bring, and the daemon
//! slows them down, gives up their lines, and recovers.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::clients::framed;
use crate::support::daemon::{Program, daemon};
use crate::support::lines::total;
use crate::support::receiver::Receiver;

/// Starts it with so much memory, and a queue that there is none for.
fn start(directory: &Path, to: &str, limit: &str) -> Program {
    daemon(
        directory,
        &format!(
            "interval = \"100ms\"\n\
             [collector]\nsource = \"off\"\n\
             [memory]\nlimit = \"{limit}\"\nlow = 0.5\nhigh = 0.75\n\
             [[listener]]\naddress = \"unixstream://{}\"\norigin = \"none\"\n\
             [[output]]\naddress = \"{to}\"\nsources = [\"listeners\"]\n\
             queue = \"1GiB\"\non_full = \"block\"\n\
             [[output]]\naddress = \"stdout:\"\nsources = [\"collector\"]\n",
            directory.join("dsd.socket").display()
        ),
    )
}

/// Resident memory, KiB.
fn resident(daemon: &Program) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_ascii_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

#[test]
fn a_daemon_short_of_memory_slows_senders_down_sheds_and_recovers() {
    const LINES: usize = 100;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start("unixstream", &directory.join("receiver"));
    let mut idle = start(directory, &receiver.address, "auto");
    idle.until("it reports", |daemon| daemon.stdout.contains("conntally."));
    let limit = format!("{}KiB", 3 * resident(&idle));
    idle.stop();

    let mut daemon = start(directory, &receiver.address, &limit);
    receiver.pause();
    let enough = Arc::new(AtomicBool::new(false));
    let flood = thread::spawn({
        let enough = Arc::clone(&enough);
        let mut client = UnixStream::connect(directory.join("dsd.socket")).unwrap();
        let frame = framed("flood:1|c|#some:tag,and:another\n".repeat(LINES).as_bytes());
        move || {
            let mut frames = 0;
            while !enough.load(Ordering::Relaxed) {
                client.write_all(&frame).unwrap();
                frames += 1;
            }
            frames
        }
    });
    let count = |daemon: &Program, name: &str, tags: &[&str]| {
        total(
            &daemon.stdout.text(),
            &format!("conntally.listener.{name}"),
            tags,
        )
    };
    daemon.until("senders are slowed down", |daemon| {
        count(daemon, "pressure_us", &[]) > 0
    });
    daemon.until("lines are given up", |daemon| {
        count(daemon, "lines_dropped", &["reason:pressure"]) > 0
    });
    assert!(daemon.stderr.contains("memory is spent"));

    receiver.resume();
    daemon.until("memory is free again", |daemon| {
        daemon.stderr.contains("memory is not short any more")
    });
    enough.store(true, Ordering::Relaxed);
    let sent = flood.join().unwrap() * LINES;
    daemon.until("every line is accounted for", |daemon| {
        count(daemon, "lines", &[]) + count(daemon, "lines_dropped", &[]) == sent
    });
    let mut client = UnixStream::connect(directory.join("dsd.socket")).unwrap();
    client.write_all(&framed(b"after:1|c\n")).unwrap();
    daemon.until("a line comes through", |_| {
        receiver
            .lines()
            .last()
            .is_some_and(|line| line == "after:1|c")
    });
    drop(client);
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}
