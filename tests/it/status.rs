//! What the running daemon says of itself, to whoever asks by HTTP and to the command.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::admin::ask;
use crate::support::clients::{framed, send};
use crate::support::daemon::{Program, configuration, conntally, daemon};
use crate::support::netns::eventually;
use crate::support::receiver::Receiver;

/// A daemon with an output that is well and one that is away, and what they are called.
struct Rig {
    directory: tempfile::TempDir,
    daemon: Program,
    receiver: Receiver,
    away: String,
    listener: PathBuf,
}

impl Rig {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let receiver = Receiver::start("unixgram", &directory.path().join("out"));
        let absent = directory.path().join("absent.socket");
        let away = format!("unixstream://{}", absent.display());
        let listener = directory.path().join("in.socket");
        let daemon = daemon(
            directory.path(),
            &format!(
                "[collector]\nsource = \"sockets\"\n\
                 [report]\ntelemetry = false\nconnections = false\n\
                 [[listener]]\naddress = \"unixstream://{}\"\n\
                 [[output]]\naddress = \"{away}\"\nsources = [\"listeners\"]\ngroup = \"g\"\n\
                 group_mode = \"hash\"\non_full = \"drop\"\nqueue = \"64KiB\"\n\
                 [[output]]\naddress = \"stdout:\"\nformat = \"influx\"\n\
                 [[output]]\naddress = \"{}\"\nsources = [\"listeners\"]\ngroup = \"g\"\n\
                 group_mode = \"hash\"\n",
                listener.display(),
                receiver.address,
            ),
        );
        let rig = Self {
            directory,
            daemon,
            receiver,
            away,
            listener,
        };
        eventually("the admin socket answers", || rig.admin().exists());
        rig
    }

    fn admin(&self) -> PathBuf {
        self.directory.path().join("admin.socket")
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("conntally.toml")
    }

    /// Sends lines of many contexts, of which each output has some.
    fn send(&self, contexts: usize) {
        let lines: Vec<_> = (0..contexts).map(|n| format!("c{n}:1|c\n")).collect();
        for lines in lines.chunks(100) {
            send(&self.listener, &framed(lines.concat().as_bytes()));
        }
    }

    fn lines(&self) -> Vec<Value> {
        let answer = ask(&self.admin(), "GET", "/status");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.head.contains("content-type: application/x-ndjson"));
        answer.lines
    }
}

fn of<'a>(lines: &'a [Value], kind: &str, address: &str) -> &'a Value {
    let is_it = |line: &&Value| line["type"] == kind && line["address"] == address;
    lines.iter().find(is_it).unwrap()
}

#[test]
fn every_stage_is_a_line_with_its_counters() {
    let rig = Rig::start();
    rig.send(1_000);
    let mut lines = Vec::new();
    eventually("all lines came, and are where they belong", || {
        lines = rig.lines();
        let well = of(&lines, "output", &rig.receiver.address);
        let away = of(&lines, "output", &rig.away);
        let number = |line: &Value, name: &str| line[name].as_u64().unwrap();
        away["health"] == "away"
            && number(well, "lines_sent") > 0
            && number(well, "lines_sent") + number(away, "lines_held") == 1_000
            && of(
                &lines,
                "listener",
                &format!("unixstream://{}", rig.listener.display()),
            )["closed"]["eof"]
                == 10
    });
    let types: Vec<_> = lines
        .iter()
        .map(|line| line["type"].as_str().unwrap())
        .collect();
    let expected = [
        "daemon",
        "collector",
        "output",
        "output",
        "output",
        "listener",
    ];
    assert_eq!(types, expected);

    let daemon = &lines[0];
    assert_eq!(daemon["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(daemon["pid"], rig.daemon.pid());
    let started = daemon["started"].as_u64().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    assert!(u128::from(started) <= now.as_millis() && started > 1_700_000_000_000);
    assert!(daemon["uptime_seconds"].is_u64());
    assert!(daemon["resident_bytes"].as_u64() > Some(1 << 20));

    assert_eq!(lines[1]["source"], "sockets");
    assert_eq!(lines[1]["paused"], false);

    // Those of a group stand together.
    let addresses: Vec<_> = lines[2..5].iter().map(|line| &line["address"]).collect();
    assert_eq!(addresses, [&rig.away, &rig.receiver.address, "stdout:"]);
    let well = &lines[3];
    assert_eq!(
        (&well["health"], &well["format"]),
        (&"well".into(), &"dogstatsd".into())
    );
    assert_eq!(well["group"], "g");
    assert_eq!(well["lines_dropped"]["queue_full"], 0);
    assert_eq!(well["errors"]["connect"], 0);
    let counters = [
        "payloads",
        "bytes",
        "backlog_contexts",
        "backlog_bytes",
        "lines_spooled",
    ];
    for name in counters
        .iter()
        .chain(&["bytes_dropped_queue", "contexts_merged"])
    {
        assert!(well[*name].is_u64(), "{name}: {well}");
    }
    assert!(lines[2]["errors"]["connect"].as_u64() > Some(0));
    let stdout = &lines[4];
    assert_eq!(stdout["format"], "influx");
    assert_eq!(stdout.get("group"), None);

    let listener = &lines[5];
    for (name, value) in [
        ("connections", 0),
        ("accepted", 10),
        ("frames", 10),
        ("lines", 1_000),
    ] {
        assert_eq!(listener[name], value, "{name}");
    }
    assert_eq!(listener["lines_dropped"]["value"], 0);
}

#[test]
fn the_command_prints_it_as_a_table_or_as_the_lines_that_came() {
    let rig = Rig::start();
    // More than the output that is away may keep.
    rig.send(20_000);
    send(&rig.listener, b"not.a.number:abc|c\n");
    let of_listener = format!("unixstream://{}", rig.listener.display());
    eventually("all came", || {
        let lines = rig.lines();
        let listener = of(&lines, "listener", &of_listener);
        listener["lines"] == 20_000
            && listener["connections"] == 0
            && listener["lines_dropped"]["value"] == 1
            && of(&lines, "output", &rig.away)["health"] == "away"
    });
    let config = rig.config().display().to_string();
    let status = |arguments: &[&str]| {
        let ended = conntally([&["status", "--config", &config], arguments].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.stdout
    };
    let json: Vec<Value> = status(&["--format", "json"])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(json.len(), rig.lines().len());
    assert_eq!(json[0]["pid"], rig.daemon.pid());

    let table = status(&[]);
    let row = |begins: &str| {
        let mut lines = table.lines();
        let found = lines.find(|line| line.starts_with(begins));
        found.unwrap_or_else(|| panic!("no {begins:?}: {table}"))
    };
    let first = format!(
        "conntally {}, pid {}, up ",
        env!("CARGO_PKG_VERSION"),
        rig.daemon.pid()
    );
    assert!(row(&first).ends_with(" MiB resident"));
    row("sockets ");
    let cells = |begins: &str| row(begins).split_whitespace().collect::<Vec<_>>();
    assert_eq!(cells(&rig.receiver.address)[1..3], ["g", "well"]);
    assert_eq!(cells("stdout:")[1..3], ["-", "well"]);
    assert_eq!(cells(&rig.away)[1..3], ["g", "away"]);
    let away = json
        .iter()
        .find(|line| line["address"] == rig.away.as_str())
        .unwrap();
    let full = away["lines_dropped"]["queue_full"].as_u64().unwrap();
    assert!(full > 0);
    let remark = format!("  {}: lines dropped: {full} queue_full", rig.away);
    assert_eq!(row(&remark), remark);
    row(&format!("  {of_listener}: lines dropped: 1 value"));
    assert!(
        !table.contains(&format!("{}: lines", rig.receiver.address)),
        "{table}"
    );
}

#[test]
fn a_daemon_that_does_nothing_but_relay_has_a_status_too() {
    let directory = tempfile::tempdir().unwrap();
    let body = "[collector]\nsource = \"off\"\n[[output]]\naddress = \"stdout:\"\n";
    let mut daemon = daemon(directory.path(), body);
    daemon.until("it listens", |daemon| {
        daemon.stderr.contains("admin socket bound")
    });
    let answer = ask(&directory.path().join("admin.socket"), "GET", "/status");
    assert_eq!(answer.status, 200);
    let collector = answer.of_type("collector")[0];
    assert_eq!(collector["source"], "off");
    assert_eq!(collector.get("why"), None);
}

#[test]
fn without_a_daemon_it_says_so_and_exits_with_69() {
    let directory = tempfile::tempdir().unwrap();
    for (command, config) in [
        ("status", configuration(directory.path(), "")),
        ("status", off(directory.path())),
    ] {
        let ended = conntally([command.as_ref(), "--config".as_ref(), config.as_os_str()]);
        assert_eq!(ended.code, Some(69), "{}", ended.stderr);
        let said = &ended.stderr;
        assert!(
            said.contains("the daemon is not running")
                || said.contains("turns the admin socket off"),
            "{said}"
        );
        assert!(ended.stdout.is_empty());
    }
}

fn off(directory: &Path) -> PathBuf {
    let path = directory.join("off.toml");
    std::fs::write(&path, "[admin]\nsocket = \"\"\n").unwrap();
    path
}
