//! A daemon whose memory runs short: an output holds what senders bring, and the daemon
//! slows them down, gives up their lines, and recovers.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::support::cgroup::Cgroup;
use crate::support::clients::framed;
use crate::support::daemon::{Program, binary, configuration, daemon, daemon_by};
use crate::support::lines::total;
use crate::support::receiver::Receiver;

/// So much memory, and a queue that there is none for.
fn body(directory: &Path, to: &str, limit: &str) -> String {
    format!(
        "interval = \"100ms\"\n\
         [collector]\nsource = \"off\"\n\
         [memory]\nlimit = \"{limit}\"\nlow = 0.5\nhigh = 0.75\n\
         [[listener]]\naddress = \"unixstream://{}\"\norigin = \"none\"\n\
         [[output]]\naddress = \"{to}\"\nsources = [\"listeners\"]\n\
         queue = \"1GiB\"\non_full = \"block\"\n\
         [[output]]\naddress = \"stdout:\"\nsources = [\"collector\"]\n",
        directory.join("dsd.socket").display()
    )
}

/// Resident memory, KiB.
fn resident(daemon: &Program) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_ascii_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

/// Three times what the idle daemon needs, KiB.
fn enough_memory(directory: &Path, to: &str) -> u64 {
    let mut idle = daemon(directory, &body(directory, to, "auto"));
    idle.until("it reports", |daemon| daemon.stdout.contains("conntally."));
    let enough = 3 * resident(&idle);
    idle.stop();
    enough
}

#[test]
fn a_daemon_short_of_memory_slows_senders_down_sheds_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start("unixstream", &directory.join("receiver"));
    let limit = format!("{}KiB", enough_memory(directory, &receiver.address));
    let body = body(directory, &receiver.address, &limit);
    let daemon = daemon(directory, &body);
    goes_short_and_recovers(daemon, directory, &receiver, &body);
}

#[test]
fn a_daemon_whose_cgroup_is_short_of_memory_does_the_same_and_is_not_killed() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start("unixstream", &directory.join("receiver"));
    let limit = enough_memory(directory, &receiver.address) << 10;
    let name = format!("conntally-test-{}", std::process::id());
    let Some(cgroup) = Cgroup::of_memory(&name, limit) else {
        let line = "SKIPPED: a_daemon_whose_cgroup_is_short_of_memory_does_the_same_and_is_not_killed: \
                    no cgroup can be made that limits memory\n";
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return;
    };
    let body = body(directory, &receiver.address, "auto");
    let mut daemon = daemon_by(&mut cgroup.command(binary()), directory, &body);
    let measured = cgroup.path().display().to_string();
    daemon.until("it finds its cgroup", |daemon| {
        daemon.stderr.contains(&measured)
    });
    goes_short_and_recovers(daemon, directory, &receiver, &body);
}

fn goes_short_and_recovers(mut daemon: Program, directory: &Path, receiver: &Receiver, body: &str) {
    const LINES: usize = 100;
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
    let mut comes_through = |daemon: &mut Program, line: &str| {
        client.write_all(&framed(line.as_bytes())).unwrap();
        daemon.until("a line comes through", |_| {
            receiver.lines().last().is_some_and(|last| last == line)
        });
    };
    comes_through(&mut daemon, "after:1|c");
    // The process is as large as before, and was not started anew.
    configuration(directory, &body.replace("100ms", "200ms"));
    daemon.signal(Signal::HUP);
    daemon.until("it is read anew", |daemon| {
        daemon.stderr.text().matches("memory is limited").count() == 2
    });
    comes_through(&mut daemon, "after.reload:1|c");
    drop(client);
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}
