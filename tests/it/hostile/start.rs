//! Starting where somebody is already, was, or where there is no room.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::Rig;
use crate::support::clients::framed;
use crate::support::daemon::{Program, binary, clean, configuration, conntally, daemon};
use crate::support::netns::eventually;
use crate::support::receiver::Receiver;
use crate::support::tools::{find, skip};

/// A configuration in `directory`, with a listener elsewhere.
fn listening(directory: &Path, scheme: &str, socket: &Path) -> PathBuf {
    fs::create_dir_all(directory).unwrap();
    configuration(directory, &printing(scheme, socket))
}

/// A daemon that prints what comes by a listener of this scheme.
pub(super) fn printing(scheme: &str, socket: &Path) -> String {
    format!(
        "[collector]\nsource = \"off\"\n\
         [report]\ntelemetry = false\n\
         [[listener]]\naddress = \"{scheme}://{}\"\norigin = \"none\"\n\
         [[output]]\naddress = \"stdout:\"\n",
        socket.display()
    )
}

fn run(config: &Path) -> Program {
    Program::start(clean(binary()).arg("run").arg("--config").arg(config))
}

#[test]
fn a_second_instance_is_refused_and_does_the_first_no_harm() {
    let mut rig = Rig::start("");
    let inode = fs::metadata(rig.socket()).unwrap().ino();
    let second = rig.directory.path().join("second");
    for scheme in ["unixstream", "unixgram"] {
        let config = listening(&second, scheme, &rig.socket());
        for _ in 0..10 {
            let ended = conntally(["run".as_ref(), "--config".as_ref(), config.as_os_str()]);
            assert_eq!(ended.code, Some(1), "{}", ended.stderr);
            let why = format!(
                "address in use: another process listens on {scheme}://{}",
                rig.socket().display()
            );
            assert!(ended.stderr.contains(&why), "{}", ended.stderr);
        }
    }
    assert_eq!(fs::metadata(rig.socket()).unwrap().ino(), inode);
    // Nothing is left beside it.
    let names = |directory: &Path| {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let expected = ["admin.socket", "conntally.toml", "out", "run", "second"];
    assert_eq!(names(rig.directory.path()), expected);
    assert_eq!(names(&second), ["conntally.toml"]);
    assert_eq!(names(&rig.directory.path().join("run")), ["in.socket"]);
    rig.hears_the_neighbour();
    rig.until("the neighbour alone is left", |of| of["connections"] == 1);
    rig.end();
}

#[test]
fn of_three_that_start_at_once_over_a_stale_file_one_stays() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    for round in 0..30 {
        let scheme = ["unixstream", "unixgram"][round % 2];
        let socket = directory.join("run/dsd.socket");
        fs::create_dir_all(directory.join("run")).unwrap();
        drop(UnixListener::bind(&socket).unwrap());
        let configs = ["a", "b", "c"].map(|name| listening(&directory.join(name), scheme, &socket));
        let mut all = configs
            .map(|config| run(&config))
            .into_iter()
            .collect::<Vec<_>>();
        let mut refused = Vec::new();
        eventually("two of them have ended", || {
            while let Some(place) = all.iter_mut().position(|daemon| !daemon.runs()) {
                refused.push(all.swap_remove(place).wait());
            }
            refused.len() >= 2
        });
        for ended in &refused {
            assert_eq!(ended.code, Some(1), "{}", ended.stderr);
            assert!(ended.stderr.contains("address in use"), "{}", ended.stderr);
        }
        let mut stays = all
            .pop()
            .unwrap_or_else(|| panic!("none stays: {refused:#?}"));
        stays.until("the other listens", |daemon| {
            daemon.stderr.contains("admin socket bound")
        });
        send(scheme, &socket, b"one:1|c");
        stays.until("it is the one who is heard", |daemon| {
            daemon.stdout.contains("one:1|c")
        });
        assert_eq!(stays.stop().code, Some(0));
        let left = fs::read_dir(directory.join("run")).unwrap().count();
        assert_eq!(left, 0, "left behind");
    }
}

fn send(scheme: &str, socket: &Path, line: &[u8]) {
    if scheme == "unixgram" {
        let client = UnixDatagram::unbound().unwrap();
        client.send_to(line, socket).unwrap();
    } else {
        let mut client = UnixStream::connect(socket).unwrap();
        client.write_all(&framed(line)).unwrap();
    }
}

/// What whoever tries to connect all the while finds out.
#[derive(Default)]
struct Prober {
    tries: AtomicUsize,
    is_over: AtomicBool,
}

impl Prober {
    /// Tries until it is over; asserts that there was a file each time, and that once there
    /// was somebody behind it there always was.
    fn run(&self, socket: &Path) {
        let mut served = false;
        loop {
            let is_last = self.is_over.load(Ordering::Relaxed);
            self.tries.fetch_add(1, Ordering::Relaxed);
            match UnixStream::connect(socket) {
                Ok(_) => served = true,
                // Of the other type, a datagram socket that is there.
                Err(error) if error.raw_os_error() == Some(PROTOTYPE) => served = true,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
                    assert!(!served, "not there any more");
                }
            }
            if is_last {
                assert!(served, "never there");
                return;
            }
        }
    }
}

const PROTOTYPE: i32 = rustix::io::Errno::PROTOTYPE.raw_os_error();

#[test]
fn a_stale_file_is_replaced_in_one_step_by_one_that_is_listened_on() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    for round in 0..20 {
        let scheme = ["unixstream", "unixgram"][round % 2];
        let socket = directory.join(format!("{round}.socket"));
        if round % 4 < 2 {
            drop(UnixListener::bind(&socket).unwrap());
        } else {
            drop(UnixDatagram::bind(&socket).unwrap());
        }
        let prober = Prober::default();
        thread::scope(|scope| {
            let probing = scope.spawn(|| prober.run(&socket));
            eventually("it is tried", || prober.tries.load(Ordering::Relaxed) > 1);
            let daemon = daemon(directory, &printing(scheme, &socket));
            send(scheme, &socket, b"one:1|c");
            prober.is_over.store(true, Ordering::Relaxed);
            probing.join().unwrap();
            assert_eq!(daemon.stop().code, Some(0));
        });
    }
    // Under no other name has anything stayed behind.
    let left = fs::read_dir(directory).unwrap().count();
    assert_eq!(left, 1, "but the configuration");
}

#[test]
fn a_stale_file_is_replaced_where_no_name_fits_beside_it() {
    // As long as the name of a socket can be.
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let length = 107 - directory.path().as_os_str().len() - 1;
    let socket = directory.path().join("s".repeat(length));
    drop(UnixListener::bind(&socket).unwrap());
    let mut daemon = daemon(directory.path(), &printing("unixstream", &socket));
    send("unixstream", &socket, b"one:1|c");
    daemon.until("it is heard", |daemon| daemon.stdout.contains("one:1|c"));
    assert_eq!(daemon.stop().code, Some(0));
}

/// Runs the program, with a listener of this scheme in a file system of its own that has room
/// for so many files, its own directory among them; with a socket there already that nobody
/// listens on, if told to.
pub(super) fn with_inodes(
    test: &str,
    directory: &Path,
    scheme: &str,
    inodes: u32,
    stale: bool,
) -> Option<Program> {
    let mount = "mount -t tmpfs -o size=64k,nr_inodes=\"$0\" tmpfs \"$1\"";
    let unshare = find("unshare")?;
    let isolated = |script: &str| {
        let mut command = clean(&unshare);
        command.args(["-Urm", "--", "sh", "-c", script]);
        command.arg(inodes.to_string()).arg(directory.join("full"));
        command
    };
    fs::create_dir_all(directory.join("full")).unwrap();
    if Program::start(&mut isolated(mount)).wait().code != Some(0) {
        skip(test, "user and mount namespaces are forbidden");
        return None;
    }
    let copy = if stale { "cp -a \"$2\" \"$1\"" } else { "true" };
    let mut command = isolated(&format!(
        "{mount} && {copy} && exec \"$3\" run --config \"$4\""
    ));
    let old = directory.join("dsd.socket");
    if !old.exists() {
        drop(UnixListener::bind(&old).unwrap());
    }
    let config = listening(directory, scheme, &directory.join("full/dsd.socket"));
    Some(Program::start(command.arg(old).arg(binary()).arg(config)))
}

#[test]
fn a_full_disk_at_the_sockets_directory_is_named() {
    const TEST: &str = "a_full_disk_at_the_sockets_directory_is_named";
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    for scheme in ["unixstream", "unixgram"] {
        let Some(program) = with_inodes(TEST, directory, scheme, 1, false) else {
            return;
        };
        let ended = program.wait();
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        let told = format!(
            "cannot listen on {scheme}://{}: failed to create the socket file: No space left on device",
            directory.join("full/dsd.socket").display()
        );
        assert!(ended.stderr.contains(&told), "{}", ended.stderr);
    }
}

#[test]
fn a_stale_file_is_replaced_on_a_full_disk() {
    const TEST: &str = "a_stale_file_is_replaced_on_a_full_disk";
    let directory = tempfile::tempdir().unwrap();
    for scheme in ["unixstream", "unixgram"] {
        let Some(mut program) = with_inodes(TEST, directory.path(), scheme, 2, true) else {
            return;
        };
        program.until("it listens", |program| {
            program.stderr.contains(" listening address=")
                && program
                    .stderr
                    .contains("nobody listened on the socket file")
        });
        assert_eq!(program.stop().code, Some(0));
    }
}

#[test]
fn nothing_is_left_behind_where_a_start_fails() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("dsd.socket");
    let receiver = Receiver::start("unixstream", &directory.path().join("out"));
    drop(UnixListener::bind(&socket).unwrap());
    // The second listener's is in use.
    let config = configuration(
        directory.path(),
        &format!(
            "{}[[listener]]\naddress = \"{}\"\n",
            printing("unixstream", &socket),
            receiver.address
        ),
    );
    let ended = conntally(["run".as_ref(), "--config".as_ref(), config.as_os_str()]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(!socket.exists());
    let left = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(
        left, 2,
        "but the configuration and the receiver's directory"
    );
}
