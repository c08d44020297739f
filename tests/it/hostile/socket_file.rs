//! What may happen to a socket file while the daemon runs: it goes on serving who is
//! connected, says once what happened, and takes nothing away that is not its own.

use std::fs;
use std::io::Write;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::Arc;

use super::Rig;
use crate::support::clients::framed;
use crate::support::daemon::daemon;

/// Does this to the socket file, and looks that it is told so; what is there at the end.
#[track_caller]
fn survives(told: &str, happens: impl FnOnce(&Path)) -> Rig {
    let mut rig = Rig::start("");
    let mut client = rig.connect();
    happens(&rig.socket());
    rig.daemon
        .until("it is told", |daemon| daemon.stderr.contains(told));
    client.write_all(&framed(b"connected.sum:1|c")).unwrap();
    rig.receives("connected.sum", 1);
    rig.hears_the_neighbour();
    rig
}

/// Ends the daemon; what it said of the file.
#[track_caller]
fn end(rig: Rig) -> Vec<String> {
    let socket = rig.socket().display().to_string();
    let (ended, _) = rig.end();
    let about = |line: &&str| line.contains("WARN") && line.contains(&socket);
    ended
        .stderr
        .lines()
        .filter(about)
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_socket_file_that_is_deleted() {
    let rig = survives("the socket file was removed", |path| {
        fs::remove_file(path).unwrap();
    });
    assert!(!rig.socket().exists());
    assert_eq!(end(rig).len(), 1);
}

#[test]
fn a_socket_file_that_is_replaced_by_another_socket() {
    let mut other = None;
    let rig = survives("the socket file is not ours any more", |path| {
        let beside = path.with_extension("beside");
        other = Some(UnixListener::bind(&beside).unwrap());
        fs::rename(beside, path).unwrap();
    });
    let socket = rig.socket();
    let directory = Arc::clone(&rig.directory);
    let told = end(rig);
    assert!(
        told[0].contains("another socket") && told.len() == 1,
        "{told:?}"
    );
    assert!(socket.exists(), "what is not the daemon's own is gone");
    drop(directory);
}

#[test]
fn a_socket_file_that_is_replaced_by_a_directory() {
    let rig = survives("the socket file is not ours any more", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    });
    let socket = rig.socket();
    let directory = Arc::clone(&rig.directory);
    let told = end(rig);
    assert!(
        told[0].contains("a directory") && told.len() == 1,
        "{told:?}"
    );
    assert!(socket.is_dir(), "what is not the daemon's own is gone");
    drop(directory);
}

#[test]
fn a_socket_file_that_was_away_for_a_while() {
    let mut rig = survives("the socket file was removed", |path| {
        fs::rename(path, path.with_extension("away")).unwrap();
    });
    let (socket, directory) = (rig.socket(), Arc::clone(&rig.directory));
    fs::rename(socket.with_extension("away"), &socket).unwrap();
    rig.daemon.until("it is told", |daemon| {
        daemon.stderr.contains("the socket file is back")
    });
    rig.connect().write_all(&framed(b"again.sum:1|c")).unwrap();
    rig.receives("again.sum", 1);
    assert_eq!(end(rig).len(), 1);
    assert!(!socket.exists());
    drop(directory);
}

#[test]
fn the_files_of_datagram_sockets_and_of_the_admin_socket_are_looked_after_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dsd.socket");
    let mut daemon = daemon(
        directory.path(),
        &format!(
            "[collector]\nsource = \"off\"\n\
             [report]\ntelemetry = false\n\
             [[listener]]\naddress = \"unixgram://{}\"\norigin = \"none\"\n\
             [[output]]\naddress = \"stdout:\"\n",
            path.display()
        ),
    );
    let client = UnixDatagram::unbound().unwrap();
    client.connect(&path).unwrap();
    for name in ["dsd.socket", "admin.socket"] {
        fs::remove_file(directory.path().join(name)).unwrap();
        daemon.until("it is told", |daemon| {
            let log = daemon.stderr.text();
            log.lines()
                .any(|line| line.contains("the socket file was removed") && line.contains(name))
        });
    }
    client.send(b"connected:1|c").unwrap();
    daemon.until("it is served", |daemon| {
        daemon.stdout.contains("connected:1|c")
    });
    assert_eq!(daemon.stop().code, Some(0));
}
