//! What a running daemon is told over the admin socket, by HTTP and by the command line:
//! to tell of its last tick, to flush, to reload, to log something else, to pause.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use conntally::admin::Limits;
use conntally::config::Config;
use conntally::flow::{Flow, TcpState};

use crate::support::admin::{Answer, ask};
use crate::support::clients::framed;
use crate::support::collector::Rig;
use crate::support::daemon::{Ended, Program, configuration, conntally, daemon};
use crate::support::inject;
use crate::support::netns::{eventually, isolated};
use crate::support::receiver::Receiver;

/// A daemon and its directory.
struct Daemon {
    directory: tempfile::TempDir,
    program: Program,
}

const QUIET: &str = "interval = \"200ms\"\n[collector]\nsource = \"off\"\n";

impl Daemon {
    fn start(body: impl FnOnce(&Path) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let body = body(directory.path());
        let mut program = daemon(directory.path(), &body);
        program.until("the admin socket is bound", |daemon| {
            daemon.stderr.contains("admin socket bound")
        });
        Self { directory, program }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a command that asks this daemon.
    fn command(&self, arguments: &[&str]) -> Ended {
        let config = self.path("conntally.toml").display().to_string();
        conntally([arguments, &["--config", &config]].concat())
    }

    #[track_caller]
    fn told(&self, arguments: &[&str]) -> String {
        let ended = self.command(arguments);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout
    }

    fn request(&self, method: &str, target: &str) -> Answer {
        ask(&self.path("admin.socket"), method, target)
    }
}

fn stdout(_: &Path) -> String {
    format!("{QUIET}[[output]]\naddress = \"stdout:\"\n")
}

#[test]
fn a_reload_is_answered_once_the_new_configuration_runs() {
    let mut daemon = Daemon::start(stdout);
    let told = daemon.told(&["reload"]);
    assert_eq!(told, "the configuration has not changed\n");
    let body = stdout(Path::new(""));
    let hosts = format!("{body}[hosts]\nmax = 7\n");
    configuration(daemon.directory.path(), &hosts);
    let told = daemon.told(&["reload"]);
    assert!(told.ends_with("changed:\n  hosts.max\n"), "{told}");
    // Whoever is told can ask at once.
    assert_eq!(daemon.request("GET", "/status").status, 200);
    configuration(daemon.directory.path(), &body);
    let answer = daemon.request("POST", "/reload");
    assert_eq!(
        (answer.status, &answer.last()["type"]),
        (200, &"reloaded".into())
    );
    assert_eq!(answer.last()["changed"], serde_json::json!(["hosts.max"]));
    assert!(daemon.program.runs());
}

#[test]
fn a_reload_of_what_is_wrong_says_where_and_changes_nothing() {
    let daemon = Daemon::start(stdout);
    let body = stdout(Path::new(""));
    configuration(
        daemon.directory.path(),
        &format!("{body}[hosts]\nmaxi = 7\n"),
    );
    let answer = daemon.request("POST", "/reload");
    assert_eq!(answer.status, 422, "{answer:?}");
    let message = answer.last()["message"].as_str().unwrap();
    for part in ["conntally.toml:7", "maxi"] {
        assert!(message.contains(part), "no {part} in {message}");
    }
    let ended = daemon.command(&["reload"]);
    assert_eq!(ended.code, Some(78), "{}", ended.stderr);
    assert!(ended.stderr.contains("maxi"), "{}", ended.stderr);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = taken.local_addr().unwrap();
    let refused = format!("{body}[[listener]]\naddress = \"tcp://{listener}\"\n");
    configuration(daemon.directory.path(), &refused);
    let answer = daemon.request("POST", "/reload");
    assert_eq!(answer.status, 409, "{answer:?}");
    let message = answer.last()["message"].as_str().unwrap();
    for part in ["configuration of before", &listener.to_string()] {
        assert!(message.contains(part), "no {part} in {message}");
    }
    eventually("it answers again", || {
        daemon.path("admin.socket").exists() && daemon.request("GET", "/status").status == 200
    });
}

#[test]
fn a_flush_sends_what_waits_and_tells_how_much_that_is() {
    let directory = tempfile::tempdir().unwrap();
    let receiver = Receiver::start("unixgram", &directory.path().join("out"));
    let daemon = Daemon::start(|directory| {
        format!(
            "{QUIET}[[listener]]\naddress = \"unixstream://{}/in.socket\"\norigin = \"none\"\n\
             [[output]]\naddress = \"{}\"\nsources = [\"listeners\"]\naggregate = \"1h\"\n",
            directory.display(),
            receiver.address
        )
    });
    let mut client = UnixStream::connect(daemon.path("in.socket")).unwrap();
    client
        .write_all(&framed(b"waits:1|c\nwaits:2|c\n"))
        .unwrap();
    let held = || {
        let status = daemon.request("GET", "/status");
        status.of_type("output")[0]["lines_held"].clone()
    };
    eventually("the line waits", || held() == 2);
    assert!(receiver.lines().is_empty());
    let told = daemon.told(&["flush"]);
    let row: Vec<_> = told.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, [receiver.address.as_str(), "2"], "{told}");
    eventually("it is sent", || receiver.lines() == ["waits:3|c"]);
}

#[test]
fn the_log_tells_what_it_is_asked_to_until_it_is_set_back() {
    let mut daemon = Daemon::start(stdout);
    assert_eq!(daemon.told(&["log"]), "info\n");
    let refusal = "request refused";
    assert_eq!(daemon.request("GET", "/nothing").status, 404);
    let told = daemon.told(&["log", "info,conntally::admin=debug"]);
    assert!(told.contains("conntally::admin=debug"), "{told}");
    assert!(told.contains("(at the start: info)"), "{told}");
    assert!(!daemon.program.stderr.contains(refusal));
    assert_eq!(daemon.request("GET", "/nothing").status, 404);
    daemon
        .program
        .until("it is logged", |daemon| daemon.stderr.contains(refusal));
    // It outlives a reload, as that is no start.
    let body = format!("{}[hosts]\nmax = 7\n", stdout(Path::new("")));
    configuration(daemon.directory.path(), &body);
    daemon.told(&["reload"]);
    let answer = daemon.request("GET", "/log");
    assert_ne!(answer.last()["filter"], "info", "{answer:?}");
    assert_eq!(daemon.told(&["log", "--reset"]), "info\n");

    let wrong = daemon.request("PUT", "/log?filter=conntally=loud");
    assert_eq!(wrong.status, 400, "{wrong:?}");
    let ended = daemon.command(&["log", "conntally=loud"]);
    assert_eq!(ended.code, Some(64), "{}", ended.stderr);
    assert_eq!(daemon.told(&["log"]), "info\n");
}

#[test]
fn before_the_first_tick_there_is_no_snapshot_and_no_reload_where_nobody_takes_it() {
    let rig = Rig::start(&Config::default(), Limits::default());
    let answer = ask(&rig.socket, "GET", "/snapshot");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.head.contains("retry-after: 1"));
    let message = answer.last()["message"].as_str().unwrap();
    assert!(message.contains("first tick"), "{message}");
    assert_eq!(ask(&rig.socket, "POST", "/reload").status, 503);
    assert_eq!(ask(&rig.socket, "PUT", "/log?filter=debug").status, 503);
    assert_eq!(ask(&rig.socket, "PUT", "/log").status, 400);
}

fn tcp(src_port: u16, state: TcpState) -> Flow {
    inject::tcp(src_port, "198.51.100.7", state)
}

#[test]
fn the_last_tick_is_told_by_remote_host_and_stays_while_the_collector_pauses() {
    isolated(&[], || {
        inject::inject([tcp(1, TcpState::Established), tcp(2, TcpState::TimeWait)]);
        let daemon = Daemon::start(|_| {
            "interval = \"100ms\"\n[collector]\nsource = \"conntrack\"\n\
             [report]\nstates = \"raw\"\n[[output]]\naddress = \"stdout:\"\n"
                .to_owned()
        });
        let expected = serde_json::json!({
            "type": "host", "host": "198.51.100.7", "direction": "forwarded", "protocol": "tcp",
            "opening": 0, "open": 1, "closing": 1, "closed": 0,
        });
        let told = || daemon.request("GET", "/snapshot");
        eventually("a tick is done", || told().status == 200);
        let answer = told();
        assert_eq!(answer.of_type("host"), [&expected], "{answer:?}");
        assert_eq!(answer.last()["rows"], 1);
        daemon.told(&["collector", "pause"]);
        assert_eq!(daemon.request("GET", "/collector").last()["paused"], true);
        inject::inject([tcp(3, TcpState::Established)]);
        let tick = || told().last()["tick"].as_u64().unwrap();
        let paused_at = tick();
        eventually("ticks go on", || tick() > paused_at + 1);
        assert_eq!(told().of_type("host"), [&expected]);
        daemon.told(&["collector", "resume"]);
        eventually("it is counted", || told().of_type("host")[0]["open"] == 2);
    });
}
