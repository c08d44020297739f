//! Socket files that somebody takes away, or puts something else in the place of, while the
//! daemon runs: it makes anew what is gone, leaves alone what is not its own, and goes on
//! with whoever is connected.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::Rig;
use super::start::printing;
use crate::support::admin::ask;
use crate::support::clients::framed;
use crate::support::daemon::{Ended, Program, binary, clean, configuration, daemon};
use crate::support::tools::{find, skip};

/// Sockets that a listener has of one name at most: see `SocketFile`.
const MOST_SOCKETS: usize = 4;

impl Rig {
    /// Waits until so many sockets were made anew, and the last one's file is there.
    #[track_caller]
    fn until_made_anew(&mut self, times: usize) {
        self.until("a new socket is there", |of| {
            of["rebinds"] == times && of["path_lost"] == 0
        });
    }

    /// Waits until nobody finds the listener by its path, as is told so.
    #[track_caller]
    fn until_lost(&mut self, told: &str) {
        self.until("it is told by the status", |of| of["path_lost"] == 1);
        self.daemon.until("it is told in the log", |daemon| {
            daemon.stderr.contains(told)
        });
    }

    /// Who connects now is heard, and the neighbour is still.
    #[track_caller]
    fn serves(&self, name: &str) {
        let line = format!("{name}:1|c");
        self.connect().write_all(&framed(line.as_bytes())).unwrap();
        self.receives(name, 1);
        self.hears_the_neighbour();
    }
}

/// What was said in the log of the file.
fn about(ended: &Ended, socket: &Path) -> Vec<String> {
    let socket = socket.display().to_string();
    let about = |line: &&str| line.contains("WARN") && line.contains(&socket);
    (ended.stderr.lines().filter(about))
        .map(str::to_owned)
        .collect()
}

/// Ends the daemon; what it said of the file.
#[track_caller]
fn end(rig: Rig) -> Vec<String> {
    let socket = rig.socket();
    let (ended, _) = rig.end();
    about(&ended, &socket)
}

#[test]
fn a_socket_file_that_is_deleted_is_made_anew() {
    let mut rig = Rig::start("mode = \"0622\"");
    let (socket, directory) = (rig.socket(), Arc::clone(&rig.directory));
    let before = fs::metadata(&socket).unwrap();
    let mut connected = rig.connect();
    fs::remove_file(&socket).unwrap();
    rig.until_made_anew(1);
    let after = fs::metadata(&socket).unwrap();
    assert_eq!((before.mode(), before.uid()), (after.mode(), after.uid()));
    connected.write_all(&framed(b"connected.sum:1|c")).unwrap();
    rig.receives("connected.sum", 1);
    rig.serves("anew.sum");
    let told = end(rig);
    assert!(told.len() == 1 && told[0].contains("made anew"), "{told:?}");
    let left = fs::read_dir(socket.parent().unwrap()).unwrap().count();
    assert_eq!(left, 0, "left behind");
    drop(directory);
}

#[test]
fn a_socket_file_whose_directory_is_made_anew_is_so_too() {
    let mut rig = Rig::start("");
    let own = rig.socket().parent().unwrap().to_owned();
    fs::remove_dir_all(&own).unwrap();
    rig.until_lost("there is no directory");
    fs::create_dir(&own).unwrap();
    rig.until_made_anew(1);
    rig.serves("anew.sum");
    assert_eq!(end(rig).len(), 2);
}

/// Puts something at the path of the socket file; sockets stay open as long as they are kept.
type Put<'a> = &'a dyn Fn(&mut Vec<UnixListener>);

#[test]
fn what_somebody_else_has_put_there_is_left_alone_until_it_is_gone() {
    let mut rig = Rig::start("");
    let socket = rig.socket();
    let beside = socket.with_extension("beside");
    let mut others = Vec::new();
    let kinds: [(&str, Put<'_>); 4] = [
        ("another socket", &|others| {
            others.push(UnixListener::bind(&beside).unwrap());
            fs::rename(&beside, &socket).unwrap();
        }),
        ("a file", &|_| {
            fs::write(&beside, "precious").unwrap();
            fs::rename(&beside, &socket).unwrap();
        }),
        ("a link", &|_| {
            symlink("nowhere", &beside).unwrap();
            fs::rename(&beside, &socket).unwrap();
        }),
        ("a directory", &|_| {
            fs::remove_file(&socket).unwrap();
            fs::create_dir(&socket).unwrap();
        }),
    ];
    for (time, (what, put)) in kinds.iter().enumerate() {
        put(&mut others);
        rig.until_lost(&format!("what=\"{what}\""));
        rig.hears_the_neighbour();
        let there = fs::symlink_metadata(&socket).unwrap();
        if there.is_dir() {
            fs::remove_dir(&socket).unwrap();
        } else {
            fs::remove_file(&socket).unwrap();
        }
        rig.until_made_anew(time + 1);
        rig.serves(&format!("anew{time}.sum"));
    }
    // Nobody has knocked at the other's.
    others[0].set_nonblocking(true).unwrap();
    let knocked = others[0].accept().unwrap_err();
    assert_eq!(knocked.kind(), ErrorKind::WouldBlock);
    let told = end(rig);
    assert_eq!(told.len(), 2 * kinds.len(), "{told:#?}");
}

#[test]
fn what_somebody_else_has_put_there_is_there_after_the_stop_too() {
    let mut rig = Rig::start("");
    let (socket, directory) = (rig.socket(), Arc::clone(&rig.directory));
    fs::remove_file(&socket).unwrap();
    fs::create_dir(&socket).unwrap();
    rig.until_lost("a directory");
    end(rig);
    assert!(socket.is_dir(), "what is not the daemon's own is gone");
    drop(directory);
}

#[test]
fn the_sockets_before_are_served_for_whoever_finds_them() {
    let mut rig = Rig::start("");
    let (socket, directory) = (rig.socket(), Arc::clone(&rig.directory));
    // As a container finds one whose file was mounted there.
    let moved = |time: usize| socket.with_extension(format!("moved{time}"));
    for time in 0..MOST_SOCKETS {
        fs::rename(&socket, moved(time)).unwrap();
        rig.until_made_anew(time + 1);
    }
    for time in 1..MOST_SOCKETS {
        let line = format!("moved{time}.sum:1|c");
        let mut client = UnixStream::connect(moved(time)).unwrap();
        client.write_all(&framed(line.as_bytes())).unwrap();
        rig.receives(&format!("moved{time}.sum"), 1);
    }
    // There are as many as there may be: the oldest is closed.
    let refused = UnixStream::connect(moved(0)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    // One that is put back is known.
    fs::rename(moved(2), &socket).unwrap();
    rig.serves("back.sum");
    let told = end(rig);
    assert_eq!(told.len(), MOST_SOCKETS, "{told:#?}");
    assert!(!socket.exists(), "left behind");
    drop(directory);
}

#[test]
fn the_files_of_datagram_sockets_and_of_the_admin_socket_are_made_anew_too() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let path = directory.join("dsd.socket");
    let mut daemon = daemon(directory, &printing("unixgram", &path));
    let before = UnixDatagram::unbound().unwrap();
    before.connect(&path).unwrap();
    for name in ["dsd.socket", "admin.socket"] {
        fs::remove_file(directory.join(name)).unwrap();
        daemon.until("it is told", |daemon| {
            let log = daemon.stderr.text();
            log.lines()
                .any(|line| line.contains("made anew") && line.contains(name))
        });
    }
    let after = UnixDatagram::unbound().unwrap();
    after.connect(&path).unwrap();
    for (client, line) in [(&before, "before:1|c"), (&after, "after:1|c")] {
        client.send(line.as_bytes()).unwrap();
        daemon.until("it is heard", |daemon| daemon.stdout.contains(line));
    }
    let status = ask(&directory.join("admin.socket"), "GET", "/status");
    assert_eq!(status.of_type("listener")[0]["rebinds"], 1);
    // What is queued at the end is read from both.
    for client in [&before, &after] {
        client.send(b"last:1|c").unwrap();
    }
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0));
    assert_eq!(
        ended.stdout.matches("last:1|c").count(),
        2,
        "{}",
        ended.stdout
    );
    assert_eq!(fs::read_dir(directory).unwrap().count(), 1, "left behind");
}

/// Takes from root's process what lets it write where it may not.
fn without_override() -> Option<Command> {
    if !rustix::process::geteuid().is_root() {
        return Some(clean(binary()));
    }
    let mut command = clean(find("setpriv")?);
    command.args(["--bounding-set=-dac_override,-dac_read_search", "--"]);
    command.arg(binary());
    Some(command)
}

#[test]
fn a_directory_that_may_not_be_written_to_is_tried_again() {
    const TEST: &str = "a_directory_that_may_not_be_written_to_is_tried_again";
    let Some(mut command) = without_override() else {
        return skip(TEST, "setpriv(1) is not installed");
    };
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (own, closed) = (directory.join("run"), directory.join("closed"));
    for path in [&own, &closed] {
        fs::create_dir(path).unwrap();
    }
    fs::set_permissions(&closed, Permissions::from_mode(0o555)).unwrap();
    let socket = own.join("dsd.socket");
    let config = configuration(directory, &printing("unixgram", &socket));
    let mut daemon = Program::start(command.arg("run").arg("--config").arg(config));
    daemon.until("it listens", |daemon| {
        daemon.stderr.contains("admin socket bound")
    });
    fs::rename(&own, directory.join("gone")).unwrap();
    fs::rename(&closed, &own).unwrap();
    daemon.until("what is missing is told", |daemon| {
        (daemon.stderr).contains("not permitted to create the socket file: Permission denied")
    });
    fs::set_permissions(&own, Permissions::from_mode(0o755)).unwrap();
    hears_anew(&mut daemon, &socket);
    assert_eq!(daemon.stop().code, Some(0));
}

/// Waits until the file is made anew, and that who finds it is heard.
#[track_caller]
fn hears_anew(daemon: &mut Program, socket: &Path) {
    daemon.until("it is made anew", |daemon| {
        daemon.stderr.contains("made anew")
    });
    let client = UnixDatagram::unbound().unwrap();
    client.send_to(b"anew:1|c", socket).unwrap();
    daemon.until("it is heard", |daemon| daemon.stdout.contains("anew:1|c"));
}

#[test]
fn a_full_disk_is_tried_again() {
    const TEST: &str = "a_full_disk_is_tried_again";
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    // Room for the directory itself and two files in it.
    let Some(mut daemon) = super::start::with_inodes(TEST, directory, "unixgram", 3, false) else {
        return;
    };
    daemon.until("it listens", |daemon| {
        daemon.stderr.contains("admin socket bound")
    });
    let inside = PathBuf::from(format!("/proc/{}/root", daemon.pid()));
    let full = inside.join(directory.join("full").strip_prefix("/").unwrap());
    let (socket, filler) = (full.join("dsd.socket"), full.join("filler"));
    fs::write(&filler, "").unwrap();
    // Its inode is taken for as long as the daemon has the socket.
    fs::remove_file(&socket).unwrap();
    daemon.until("what is missing is told", |daemon| {
        daemon.stderr.contains("No space left on device")
    });
    fs::remove_file(&filler).unwrap();
    hears_anew(&mut daemon, &socket);
    assert_eq!(daemon.stop().code, Some(0));
}
