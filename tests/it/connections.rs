//! `conntally connections` on a table whose entries are known, and beside a daemon.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use conntally::admin::Limits;
use conntally::config::{Config, SourceChoice};
use conntally::flow::{End, Failure, Flow, Protocol, State, TcpState, Tuple};
use serde_json::Value;

use crate::support::collector::{Rig, ended};
use crate::support::daemon::{Ended, Program, binary, clean, configuration, conntally};
use crate::support::inject;
use crate::support::netns::{isolated, run};

const HERE: &str = "10.99.0.1";

fn tcp(src: &str, dst: &str, src_port: u16, dst_port: u16, state: TcpState) -> Flow {
    let [src, dst]: [IpAddr; 2] = [src, dst].map(|address| address.parse().unwrap());
    let original = Tuple {
        src,
        dst,
        src_port,
        dst_port,
    };
    inject::flow(Protocol::Tcp, State::Tcp(state), original)
}

/// Two that we dialled, one behind a virtual address, and one that a guest did.
fn fill() {
    run(&format!("ip address add {HERE}/32 dev lo"));
    let mut virtual_address = tcp(HERE, "192.0.2.9", 40_002, 80, TcpState::TimeWait);
    virtual_address.reply.src = [198, 51, 100, 1].into();
    virtual_address.reply.src_port = 8080;
    inject::inject([
        tcp(HERE, "192.0.2.7", 40_000, 443, TcpState::Established),
        tcp(HERE, "192.0.2.7", 40_001, 443, TcpState::SynSent),
        virtual_address,
        tcp("10.1.2.3", HERE, 50_000, 22, TcpState::Established),
    ]);
}

/// `connections` of the filled table; the configuration names the source.
fn connections(arguments: &[&str]) -> Ended {
    let directory = tempfile::tempdir().unwrap();
    let body = "[collector]\nsource = \"conntrack\"\n";
    let config = configuration(directory.path(), body);
    let config = config.display().to_string();
    conntally([&["connections", "--config", &config], arguments].concat())
}

fn lines(ended: &Ended) -> Vec<Value> {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn one_look_shows_every_connection_as_a_line_of_json() {
    isolated(&[], || {
        fill();
        let ended = connections(&["--format", "json"]);
        let lines = lines(&ended);
        assert_eq!(lines.len(), 4, "{}", ended.stdout);
        let find = |port: u16| {
            let is_it = |line: &&Value| line["original"]["src_port"] == port;
            lines.iter().find(is_it).unwrap()
        };
        let mut line = find(40_002).clone();
        let key = line.as_object_mut().unwrap().remove("key").unwrap();
        assert_eq!(key.as_str().unwrap().len(), 16);
        let expected = serde_json::json!({
            "type": "connection", "protocol": "tcp", "direction": "outbound",
            "host": "192.0.2.9", "address": "192.0.2.9", "port": 80,
            "state": "closing", "kernel_state": "time_wait",
            "original": {"src": HERE, "src_port": 40_002, "dst": "192.0.2.9", "dst_port": 80},
            "reply": {"src": "198.51.100.1", "src_port": 8080, "dst": HERE, "dst_port": 40_002},
            "zone": 0, "mark": 0,
        });
        assert_eq!(line, expected);
        assert_eq!(find(50_000)["direction"], "inbound");
    });
}

#[test]
fn a_look_is_narrowed_by_host_port_state_direction_and_protocol() {
    isolated(&[], || {
        fill();
        for (arguments, count) in [
            (&["--host", "192.0.2.7"][..], 2),
            (&["--host", "192.0.2.0/24"], 3),
            (&["--host", "10.1.2.3,192.0.2.9"], 2),
            (&["--host", "db"], 0),
            (&["--port", "443"], 2),
            (&["--port", "8080"], 1),
            (&["--state", "open"], 2),
            (&["--state", "syn_sent,time_wait"], 2),
            (&["--state", "failed"], 0),
            (&["--direction", "inbound"], 1),
            (&["--direction", "outbound", "--state", "established"], 1),
            (&["--protocol", "udp"], 0),
        ] {
            let ended = connections(&[&["--format", "json"], arguments].concat());
            assert_eq!(lines(&ended).len(), count, "{arguments:?}");
        }
    });
}

#[test]
fn one_look_as_a_table_has_a_header_and_a_row_for_each() {
    isolated(&[], || {
        fill();
        let ended = connections(&[]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let rows: Vec<Vec<&str>> = ended
            .stdout
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows.len(), 5, "{}", ended.stdout);
        assert_eq!(rows[0][..2], ["STATE", "PROTOCOL"]);
        let row = rows.iter().find(|row| row[0] == "time_wait").unwrap();
        assert_eq!(row[3..6], ["192.0.2.9", "10.99.0.1:40002", "192.0.2.9:80"]);
        assert_eq!(row[6..], ["answered", "by", "198.51.100.1:8080"]);
    });
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    isolated(&["sh", "head"], || {
        inject::inject((0..20_000).map(|n| {
            let state = State::Tcp(TcpState::Established);
            inject::flow(Protocol::Tcp, state, inject::v4(n, 100))
        }));
        let directory = tempfile::tempdir().unwrap();
        let body = "[collector]\nsource = \"conntrack\"\n";
        let config = configuration(directory.path(), body);
        for format in ["table", "json"] {
            let line = format!(
                "{{ {} connections --config {} --format {format}; echo code $? >&2; }} | head -n 1",
                binary().display(),
                config.display()
            );
            let ended = Program::start(clean("sh").args(["-c", &line])).wait();
            assert_eq!(ended.stdout.lines().count(), 1);
            assert_eq!(ended.stderr, "code 0\n");
        }
    });
}

/// The most memory that a look took until it had printed all but a few of its lines.
fn peak_kib(format: &str, count: usize) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let body = "[collector]\nsource = \"conntrack\"\n[hosts]\nlocal = [\"10.0.0.0/8\"]\n";
    let config = configuration(directory.path(), body);
    let mut look = clean(binary())
        .args(["connections", "--format", format, "--config"])
        .arg(config)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(look.stdout.take().unwrap()).lines();
    // What is left is more than a pipe and the buffers at its ends hold: it still runs.
    assert_eq!(lines.by_ref().take(count - 2_000).count(), count - 2_000);
    let status = std::fs::read_to_string(format!("/proc/{}/status", look.id())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak = peak.trim().trim_end_matches(" kB").parse().unwrap();
    lines.for_each(drop);
    assert!(look.wait().unwrap().success());
    peak
}

#[test]
fn a_look_at_many_connections_takes_the_memory_of_a_few() {
    isolated(&[], || {
        let flows = |from, to| {
            let state = State::Tcp(TcpState::Established);
            let flow = move |n| inject::flow(Protocol::Tcp, state, inject::v4(n, 100));
            inject::inject((from..to).map(flow));
        };
        let formats = ["table", "json"];
        flows(0, 4_000);
        let few = formats.map(|format| peak_kib(format, 4_000));
        flows(4_000, 60_000);
        let many = formats.map(|format| peak_kib(format, 60_000));
        for (few, many) in few.into_iter().zip(many) {
            assert!(many < few + 2_048, "{few} KiB, {many} KiB");
        }
    });
}

/// A configuration that names a socket.
fn naming(directory: &Path, socket: &str) -> PathBuf {
    let path = directory.join("asking.toml");
    std::fs::write(&path, format!("[admin]\nsocket = \"{socket}\"\n")).unwrap();
    path
}

fn ask(rig: &Rig, arguments: &[&str]) -> Ended {
    let config = naming(rig.directory.path(), &rig.socket.display().to_string());
    let config = config.display().to_string();
    let fixed = ["connections", "--config", &config, "--client", "me"];
    conntally([&fixed[..], arguments].concat())
}

fn beside_conntrack() -> Config {
    let mut config = Config::default();
    config.collector.source = SourceChoice::Conntrack;
    config
}

#[test]
fn a_client_sees_what_is_there_and_what_ended_since_it_last_asked() {
    isolated(&[], || {
        fill();
        let rig = Rig::start(&beside_conntrack(), Limits::default());
        let first = ask(&rig, &["--format", "json"]);
        assert!(
            first.stderr.contains("the first question of me"),
            "{}",
            first.stderr
        );
        let first = lines(&first);
        assert_eq!(first.len(), 5);
        assert_eq!(first[4]["type"], "end");
        assert_eq!(first[4]["connections"], 4);
        rig.record(vec![
            ended(1, End::Closed),
            ended(2, End::Failed(Failure::Reset)),
        ]);
        // What it does not want to see any more.
        let guest = first
            .iter()
            .find(|line| line["direction"] == "inbound")
            .unwrap();
        let key = guest["key"].as_str().unwrap().parse().unwrap();
        rig.act(move |played| {
            let now = tokio::time::Instant::now();
            played
                .journal
                .hide(&"me".parse().unwrap(), key, now)
                .unwrap();
        });
        let second = lines(&ask(&rig, &["--format", "json"]));
        let types: Vec<_> = second
            .iter()
            .map(|line| line["type"].as_str().unwrap())
            .collect();
        let expected = [
            "connection",
            "connection",
            "connection",
            "ended",
            "ended",
            "end",
        ];
        assert_eq!(types, expected);
        assert_eq!(second[4]["reason"], "reset");
        rig.record(vec![ended(3, End::Failed(Failure::Refused))]);
        let third = ask(&rig, &["--state", "failed"]);
        assert_eq!(third.code, Some(0), "{}", third.stderr);
        let (before, after) = third.stdout.split_once("\n\nENDED").unwrap();
        assert_eq!(before.lines().count(), 1, "{}", third.stdout);
        assert!(
            after.contains("\nrefused      tcp       outbound   192.0.2.7 "),
            "{after}"
        );
    });
}

#[test]
fn keys_of_the_daemon_are_those_of_its_hasher() {
    isolated(&[], || {
        fill();
        let rig = Rig::start(&beside_conntrack(), Limits::default());
        let flow = tcp("10.1.2.3", HERE, 50_000, 22, TcpState::Established);
        let key = rig.keys.key(&flow.original, flow.protocol, flow.zone);
        let ended = ask(&rig, &["--format", "json", "--direction", "inbound"]);
        assert_eq!(lines(&ended)[0]["key"], key.to_string());
    });
}

#[test]
fn an_answer_that_breaks_off_is_an_error_and_nothing_is_lost_by_it() {
    let mut config = Config::default();
    config.collector.source = SourceChoice::Sockets;
    let rig = Rig::start(&config, Limits::default());
    ask(&rig, &[]);
    rig.record(vec![ended(1, End::Closed)]);
    rig.act(|played| played.is_deaf = true);
    let broken = ask(&rig, &["--state", "closed"]);
    assert_eq!(broken.code, Some(1));
    assert!(broken.stderr.contains("broke off"), "{}", broken.stderr);
    rig.act(|played| played.is_deaf = false);
    let told = lines(&ask(&rig, &["--format", "json", "--state", "closed"]));
    assert_eq!(told[0]["type"], "ended", "{told:?}");
}

#[test]
fn a_flush_is_asked_for_with_a_flag() {
    let mut config = Config::default();
    config.collector.source = SourceChoice::Sockets;
    let rig = Rig::start(&config, Limits::default());
    ask(&rig, &["--port", "443"]);
    rig.act(|played| played.pending = vec![ended(1, End::Closed)]);
    let told = lines(&ask(
        &rig,
        &["--format", "json", "--state", "closed", "--flush"],
    ));
    assert_eq!(told[0]["type"], "ended", "{told:?}");
}

#[test]
fn it_says_by_its_exit_code_why_the_daemon_did_not_answer() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let socket = directory.path().join("admin.socket");
    let ask = |socket: &str| {
        let config = naming(directory.path(), socket);
        let mut command = clean(binary());
        command.args(["connections", "--client", "me", "--config"]);
        command.arg(config);
        command
    };
    let path = socket.display().to_string();
    let absent = Program::start(&mut ask(&path)).wait();
    assert_eq!(absent.code, Some(69));
    assert!(
        absent.stderr.contains("the daemon is not running"),
        "{}",
        absent.stderr
    );
    let off = Program::start(&mut ask("")).wait();
    assert_eq!(off.code, Some(69));
    assert!(
        off.stderr.contains("turns the admin socket off"),
        "{}",
        off.stderr
    );
    let listener = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o000)).unwrap();
    let mut command = ask(&path);
    if rustix::process::geteuid().is_root() {
        // Root may open anything: somebody else may not.
        command.uid(65_534);
    }
    let forbidden = Program::start(&mut command).wait();
    assert_eq!(forbidden.code, Some(77), "{}", forbidden.stderr);
    assert!(
        forbidden
            .stderr
            .contains("not permitted to open the admin socket")
    );
    drop(listener);
    let stale = Program::start(&mut ask(&path)).wait();
    assert!(matches!(stale.code, Some(69 | 77)), "{}", stale.stderr);
}

#[test]
fn a_wrong_filter_is_a_usage_error_that_says_what_would_be_right() {
    for (arguments, part) in [
        (&["--state", "up"][..], "is no state"),
        (&["--port", "http"], "from 0 to 65535"),
        (&["--host", "10.0.0.0/99"], "write an address"),
        (&["--direction", "in"], "write outbound"),
        (&["--client", "a/b"], "cannot be a client's name"),
        (&["--flush"], "--client"),
    ] {
        let ended = conntally([&["connections"], arguments].concat());
        assert_eq!(ended.code, Some(64), "{}", ended.stderr);
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
}
