//! Running out of file descriptors, and having some again.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{Rig, descriptors};
use crate::support::admin::ask;
use crate::support::clients::{Stream, framed};
use crate::support::daemon::{Program, binary, clean, configuration};
use crate::support::lines::total;
use crate::support::netns::eventually;

/// More than there will be descriptors for.
const COME: usize = 100;
/// Of those, how many there will be descriptors for, and for all else that the daemon does.
const ROOM: usize = 60;

/// Clients that each send a line of this name over a connection that stays.
fn come(rig: &Rig, name: &str, number: usize) -> Vec<Stream> {
    let connect = |_| {
        let mut client = rig.connect();
        client
            .write_all(&framed(format!("{name}:1|c").as_bytes()))
            .unwrap();
        client
    };
    (0..number).map(connect).collect()
}

#[test]
fn without_descriptors_accepting_pauses_and_all_else_goes_on() {
    let mut rig = Rig::start("");
    let limit = descriptors(rig.daemon.pid()) + ROOM;
    assert!(rig.may_have_descriptors(limit));
    let mut clients = come(&rig, "came.sum", COME);
    rig.until("accepting pauses", |of| {
        of["refused"]["system"].as_u64() > Some(1)
    });
    let listener = rig.listener();
    let open = listener["connections"].as_u64().unwrap();
    assert!((10..COME as u64).contains(&open), "{listener}");
    for reason in ["limit", "uid"] {
        assert_eq!(listener["refused"][reason], 0, "{listener}");
    }
    rig.hears_the_neighbour();
    let admin = rig.directory.path().join("admin.socket");
    for _ in 0..20 {
        assert_eq!(ask(&admin, "GET", "/clients").status, 200);
    }
    // The output connects again.
    rig.restart_receiver();
    rig.hears_the_neighbour();

    // Who goes makes room for others, one by one.
    let mut left = rig.listener()["accepted"].as_u64().unwrap();
    while !clients.is_empty() {
        clients.remove(0);
        eventually("others come", || {
            let accepted = rig.listener()["accepted"].as_u64().unwrap();
            accepted > left || accepted == COME as u64 + 1
        });
        left = rig.listener()["accepted"].as_u64().unwrap();
    }
    rig.receives("came.sum", COME);
    let (ended, _) = rig.end();
    let told = ended
        .stderr
        .lines()
        .filter(|line| line.contains("cannot accept connections"));
    assert!((1..=30).contains(&told.count()), "{}", ended.stderr);
}

#[test]
fn accepting_goes_on_when_more_descriptors_are_allowed() {
    let mut rig = Rig::start("");
    let limit = descriptors(rig.daemon.pid()) + ROOM;
    assert!(rig.may_have_descriptors(limit));
    let clients = come(&rig, "came.sum", COME);
    rig.until("accepting pauses", |of| {
        of["refused"]["system"].as_u64() > Some(1)
    });
    assert!(rig.may_have_descriptors(limit + COME));
    rig.receives("came.sum", COME);
    rig.until("all are there", |of| of["connections"] == COME + 1);
    drop(clients);
    rig.end();
}

/// The daemon as a shell starts it behind this command, with 200 connections allowed.
fn limited(directory: &Path, command: &str) -> Program {
    let config = configuration(
        directory,
        &format!(
            "[collector]\nsource = \"off\"\n\
             [report]\ntelemetry = false\n\
             [[listener]]\naddress = \"unixstream://{}\"\norigin = \"none\"\n\
             max_connections = 200\n\
             [[output]]\naddress = \"stdout:\"\n",
            directory.join("in.socket").display()
        ),
    );
    let mut shell = clean("sh");
    shell.args(["-c", &format!("{command}; exec \"$0\" run --config \"$1\"")]);
    let mut daemon = Program::start(shell.arg(binary()).arg(config));
    daemon.until("it listens", |daemon| {
        daemon.stderr.contains("admin socket bound")
    });
    daemon
}

#[test]
fn what_max_connections_takes_is_asked_for_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = limited(directory.path(), "ulimit -Sn 64");
    let connect = |_| {
        let mut client = UnixStream::connect(directory.path().join("in.socket")).unwrap();
        client.write_all(&framed(b"came.sum:1|c")).unwrap();
        client
    };
    let clients: Vec<_> = (0..200).map(connect).collect();
    daemon.until("all are heard", |daemon| {
        total(&daemon.stdout.text(), "came.sum", &[]) == 200
    });
    drop(clients);
    let ended = daemon.stop();
    assert!(!ended.stderr.contains("WARN"), "{}", ended.stderr);
}

#[test]
fn what_max_connections_takes_and_is_not_allowed_is_told_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let ended = limited(directory.path(), "ulimit -n 100").stop();
    let told = ended.stderr.lines().find(|line| line.contains("WARN"));
    let told = told.unwrap_or_else(|| panic!("{}", ended.stderr));
    for part in [
        "max_connections",
        "wanted=296",
        "allowed=100",
        "LimitNOFILE=",
    ] {
        assert!(told.contains(part), "no {part} in {told}");
    }
}
