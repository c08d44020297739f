//! Who sends: what the log and the lines tell of it, over both kinds of unix sockets.

use std::fs;
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::support::cgroup::Cgroup;
use crate::support::daemon::{Program, binary, clean, configuration, daemon};
use crate::support::sender::Sender;
use crate::support::tools::{find, skip};

const SCHEMES: [&str; 2] = ["unixgram", "unixstream"];

fn body(directory: &Path, origin: &str) -> String {
    let listeners = SCHEMES.map(|scheme| {
        let socket = directory.join(scheme);
        let socket = socket.display();
        format!("[[listener]]\naddress = \"{scheme}://{socket}\"\norigin = \"{origin}\"\n")
    });
    let listeners = listeners.concat();
    format!(
        "interval = \"100ms\"\n[collector]\nsource = \"off\"\n{listeners}\
         [[output]]\naddress = \"stdout:\"\nsources = [\"listeners\"]\n"
    )
}

fn start(directory: &Path, origin: &str) -> Program {
    daemon(directory, &body(directory, origin))
}

#[test]
fn who_sends_rubbish_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut daemon = start(directory, "none");
    for scheme in SCHEMES {
        let sender = Sender::start(scheme, &directory.join(scheme), "rubbish", None);
        let pid = format!("(pid {})", sender.pid());
        daemon.until("the log names the sender", |daemon| {
            let log = daemon.stderr.text();
            let mut bad = log.lines().filter(|line| line.contains("bad line dropped"));
            bad.any(|line| line.contains(scheme) && line.contains(&pid))
        });
    }
    // It has a program's name in front.
    assert!(!daemon.stderr.contains("peer= (pid"));
}

#[test]
fn who_may_not_send_is_named_with_its_user() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let own = rustix::process::getuid().as_raw();
    let socket = directory.join("in.socket");
    let mut daemon = daemon(
        directory,
        &format!(
            "[collector]\nsource = \"off\"\n\
             [[listener]]\naddress = \"unixgram://{}\"\nallow_uids = [{}]\n",
            socket.display(),
            own + 1
        ),
    );
    let sender = Sender::start("unixgram", &socket, "a:1|c", None);
    let pid = format!("(pid {})", sender.pid());
    let error = format!("user {own} is not in allow_uids");
    daemon.until("the log names it", |daemon| {
        let log = daemon.stderr.text();
        let mut refused = log.lines().filter(|line| line.contains("reason=\"uid\""));
        refused.any(|line| line.contains(&pid) && line.contains(&error))
    });
}

#[test]
fn a_container_is_told_of_as_a_field_or_as_tags() {
    const ID: &str = "34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376";
    let Some(cgroup) = Cgroup::make(&format!("docker-{ID}.scope")) else {
        let line = "SKIPPED: a_container_is_told_of_as_a_field_or_as_tags: no cgroup can be made\n";
        io::stderr().write_all(line.as_bytes()).unwrap();
        return;
    };
    for (origin, told) in [
        ("field", format!("a:1|c|c:ci-{ID}")),
        ("tags", format!("a:1|c|#container_id:{ID}")),
        ("none", "a:1|c".to_owned()),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let mut daemon = start(directory, origin);
        for (number, scheme) in SCHEMES.iter().enumerate() {
            let socket = directory.join(scheme);
            let _sender = Sender::start(scheme, &socket, "a:1|c", Some(cgroup.path()));
            daemon.until("the line comes", |daemon| {
                daemon.stdout.text().lines().count() > number
            });
            let text = daemon.stdout.text();
            assert_eq!(
                text.lines().last(),
                Some(told.as_str()),
                "{scheme} {origin}"
            );
        }
    }
}

fn open_files(daemon: &Program) -> usize {
    let path = format!("/proc/{}/fd", daemon.pid());
    fs::read_dir(path).unwrap().count()
}

#[test]
fn descriptors_that_a_sender_passes_are_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut daemon = start(directory, "field");
    let client = UnixDatagram::unbound().unwrap();
    client.connect(directory.join("unixgram")).unwrap();
    client.send(b"a:1|c\n").unwrap();
    daemon.until("a line comes", |daemon| !daemon.stdout.text().is_empty());
    let before = open_files(&daemon);
    for _ in 0..100 {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let passed = [client.as_fd(), client.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
        let line = [IoSlice::new(b"a:1|c\n")];
        sendmsg(&client, &line, &mut control, SendFlags::empty()).unwrap();
    }
    daemon.until("every line comes", |daemon| {
        daemon.stdout.text().lines().count() == 101
    });
    assert_eq!(open_files(&daemon), before);
}

/// In a pid namespace of its own, the daemon has no number for who is outside.
#[test]
fn who_has_no_number_here_is_unknown() {
    const TEST: &str = "who_has_no_number_here_is_unknown";
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let config = configuration(directory, &body(directory, "field"));
    let Some(unshare) = find("unshare") else {
        return skip(TEST, "unshare(1) is not installed");
    };
    let isolated = |program: &Path| {
        let mut command = clean(&unshare);
        command
            .args(["-Upf", "--map-root-user", "--kill-child", "--"])
            .arg(program);
        command
    };
    if Program::start(&mut isolated(Path::new("true"))).wait().code != Some(0) {
        return skip(TEST, "user namespaces are forbidden");
    }
    let mut command = isolated(&binary());
    let mut daemon = Program::start(command.arg("run").arg("--config").arg(config));
    daemon.until("it listens", |daemon| daemon.stderr.contains("sending to"));
    for scheme in SCHEMES {
        let _sender = Sender::start(scheme, &directory.join(scheme), "rubbish", None);
        daemon.until("the log tells of it", |daemon| {
            let log = daemon.stderr.text();
            let mut bad = log.lines().filter(|line| line.contains("bad line dropped"));
            bad.any(|line| line.contains(scheme) && line.contains("peer=unknown"))
        });
    }
}
