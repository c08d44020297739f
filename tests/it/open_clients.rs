//! Who is connected to a running daemon's listeners: real programs, as the daemon sees them.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{getgid, getuid};
use serde_json::Value;

use crate::support::admin::ask;
use crate::support::clients::free_tcp_port;
use crate::support::daemon::{Program, configuration, conntally, daemon};
use crate::support::netns::eventually;
use crate::support::tools::{find, skip};

/// Connects to a unix socket or a TCP port, sends so many frames of one line, and a line
/// that is none in a last one if told to; then waits for the end of its input.
const SENDER: &str = r#"
import socket, struct, sys
to, frames, bad = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "bad"
if to.startswith("/"):
    client = socket.socket(socket.AF_UNIX)
    client.connect(to)
else:
    client = socket.create_connection(("127.0.0.1", int(to)))
lines = [b"page.views:1|c"] * frames + ([b"no metric at all"] if bad else [])
for line in lines:
    client.sendall(struct.pack("<I", len(line)) + line)
sys.stdin.read()
"#;

/// Whether there is a python; says so loudly if not.
#[track_caller]
fn has_python(test: &str) -> bool {
    let found = find("python3").is_some();
    if !found {
        skip(test, "no python3");
    }
    found
}

/// A python that is connected until this is gone.
struct Sender(Child);

impl Sender {
    fn start(to: &str, frames: usize, bad: &str) -> Self {
        let started = Command::new("python3")
            .args(["-c", SENDER, to, &frames.to_string(), bad])
            .stdin(Stdio::piped())
            .spawn();
        Self(started.unwrap())
    }

    /// What the kernel calls it.
    fn program(&self) -> String {
        let comm = fs::read_to_string(format!("/proc/{}/comm", self.0.id()));
        comm.unwrap().trim_end().to_owned()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A daemon with a listener for unix streams, one for TCP and one for datagrams.
struct Rig {
    directory: tempfile::TempDir,
    _daemon: Program,
    port: u16,
}

impl Rig {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = free_tcp_port();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let daemon = daemon(
            directory.path(),
            &format!(
                "[collector]\nsource = \"off\"\n\
                 [[listener]]\naddress = \"unixstream://{}\"\n\
                 [[listener]]\naddress = \"unixgram://{}\"\n\
                 [[listener]]\naddress = \"tcp://127.0.0.1:{port}\"\n\
                 [[output]]\naddress = \"stdout:\"\n",
                path("in.socket"),
                path("datagrams.socket"),
            ),
        );
        let rig = Self {
            directory,
            _daemon: daemon,
            port,
        };
        eventually("the admin socket is there", || rig.admin().exists());
        rig
    }

    fn admin(&self) -> PathBuf {
        self.directory.path().join("admin.socket")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("in.socket")
    }

    /// The clients, by HTTP.
    fn clients(&self) -> Vec<Value> {
        let mut answer = ask(&self.admin(), "GET", "/clients");
        assert_eq!(answer.status, 200, "{answer:?}");
        let end = answer.lines.pop().unwrap();
        assert_eq!(end["type"], "end");
        assert_eq!(end["clients"], answer.lines.len());
        assert_eq!(answer.of_type("client").len(), answer.lines.len());
        answer.lines
    }

    /// What the command prints.
    fn command(&self, arguments: &[&str]) -> String {
        let config = self.directory.path().join("conntally.toml");
        let config = config.display().to_string();
        let ended = conntally([&["clients", "--config", &config], arguments].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout
    }

    /// Waits until so many lines have come over each of so many connections.
    fn until(&self, frames: &[usize]) -> Vec<Value> {
        let mut clients = Vec::new();
        eventually("each client has sent what it has", || {
            clients = self.clients();
            let mut came: Vec<_> = clients.iter().map(|of| of["frames"].as_u64()).collect();
            came.sort_unstable();
            let wanted = frames.iter().map(|&frames| Some(frames as u64));
            came.iter().copied().eq(wanted)
        });
        clients
    }
}

fn of<'a>(clients: &'a [Value], key: &str, value: impl Into<Value>) -> &'a Value {
    let value = value.into();
    let found = clients.iter().find(|client| client[key] == value);
    found.unwrap_or_else(|| panic!("no {key} {value}: {clients:#?}"))
}

#[test]
fn each_open_connection_is_shown_with_its_process_and_what_it_sent() {
    if !has_python("open clients") {
        return;
    }
    let rig = Rig::start();
    assert!(rig.clients().is_empty());
    let path = rig.socket().display().to_string();
    let tcp = rig.port.to_string();
    let few = Sender::start(&path, 3, "good");
    let many = Sender::start(&path, 200, "bad");
    let far = Sender::start(&tcp, 10, "good");
    let clients = rig.until(&[3, 10, 201]);

    let client = of(&clients, "pid", many.0.id());
    assert_eq!(client["listener"], format!("unixstream://{path}"));
    assert_eq!(client["program"], many.program());
    assert_eq!(client["uid"], getuid().as_raw());
    assert_eq!(client["gid"], getgid().as_raw());
    assert_eq!(client.get("remote"), None);
    assert_eq!(
        (&client["lines"], &client["bad_lines"]),
        (&200.into(), &1.into())
    );
    assert_eq!(client["bytes"], 200 * (4 + 14) + 4 + 16);
    let since = client["since"].as_u64().unwrap();
    assert!(since > 1_700_000_000_000, "{client}");
    let age = client["age_seconds"].as_u64().unwrap();
    assert!(
        client["idle_seconds"].as_u64().unwrap() <= age + 1,
        "{client}"
    );
    let other = of(&clients, "pid", few.0.id());
    assert_eq!(
        (&other["lines"], &other["bad_lines"]),
        (&3.into(), &0.into())
    );

    let client = of(&clients, "listener", format!("tcp://127.0.0.1:{tcp}"));
    assert!(client["remote"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(client["lines"], 10);
    for unknown in ["pid", "uid", "gid", "program"] {
        assert_eq!(client.get(unknown), None, "{unknown}");
    }

    let gone = few.0.id();
    drop((few, far));
    let clients = rig.until(&[201]);
    assert!(!clients.iter().any(|client| client["pid"] == gone));
}

#[test]
fn the_command_prints_the_largest_first_and_as_many_as_wanted() {
    if !has_python("the command clients") {
        return;
    }
    let rig = Rig::start();
    let header = rig.command(&[]);
    assert!(
        header.starts_with("LISTENER") && header.lines().count() == 1,
        "{header}"
    );
    let path = rig.socket().display().to_string();
    let senders = [(5, "bad"), (500, "good"), (50, "good")]
        .map(|(frames, bad)| Sender::start(&path, frames, bad));
    let far = Sender::start(&rig.port.to_string(), 1, "good");
    rig.until(&[1, 6, 50, 500]);

    let table = rig.command(&[]);
    let rows: Vec<Vec<_>> = (table.lines())
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 5, "{table}");
    assert_eq!(rows[0][..4], ["LISTENER", "ID", "PID", "UID"]);
    let [bad, most, middle] = senders.each_ref().map(|sender| sender.0.id().to_string());
    assert_eq!(
        rows[1..4].iter().map(|row| row[2]).collect::<Vec<_>>(),
        [&most, &middle, &bad]
    );
    assert_eq!(rows[1][5], senders[1].program());
    assert!(rows[4][0].starts_with("tcp://") && rows[4][6].starts_with("127.0.0.1:"));

    let json = |arguments: &[&str]| -> Vec<Value> {
        let text = rig.command(&[&["--format", "json"], arguments].concat());
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect()
    };
    let worst = json(&["--sort", "bad-lines", "--top", "1"]);
    assert_eq!(worst.len(), 1);
    assert_eq!(worst[0]["pid"].to_string(), bad);
    assert_eq!(json(&[]).len(), 4);
    drop(far);
}

#[test]
fn an_answer_has_every_connection_however_many_there_are() {
    let rig = Rig::start();
    let connect = || UnixStream::connect(rig.socket()).unwrap();
    let mut open: Vec<_> = (0..400).map(|_| connect()).collect();
    eventually("all are taken", || rig.clients().len() == 400);
    let ids: Vec<_> = (rig.clients().iter())
        .map(|client| client["id"].as_u64().unwrap())
        .collect();
    assert!(ids.is_sorted());
    open.drain(..100);
    eventually("those that left are not shown", || {
        rig.clients().len() == 300
    });
    drop(open);
}

#[test]
fn without_a_daemon_the_command_says_so_and_exits_with_69() {
    let directory = tempfile::tempdir().unwrap();
    let config = configuration(directory.path(), "");
    let ended = conntally([Path::new("clients"), Path::new("--config"), &config]);
    assert_eq!(ended.code, Some(69), "{}", ended.stderr);
    assert!(ended.stderr.contains("the daemon is not running"));
    let usage = conntally(["clients", "--sort", "height"]);
    assert_eq!(usage.code, Some(64), "{}", usage.stderr);
}
