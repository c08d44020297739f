//! Clients of a running daemon: what is there, what ended since they last asked, and
//! what the collector does when it is told to.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use conntally::flow::{Flow, TcpState};
use serde_json::Value;

use crate::support::daemon::{Program, configuration, conntally, daemon};
use crate::support::inject;
use crate::support::netns::isolated;

fn tcp(src_port: u16, state: TcpState) -> Flow {
    inject::tcp(src_port, "198.51.100.7", state)
}

const OPEN: TcpState = TcpState::Established;

/// A daemon that follows connection tracking, and where its admin socket is.
struct Rig {
    directory: tempfile::TempDir,
    daemon: Program,
}

impl Rig {
    fn start(mode: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let body = format!(
            "interval = \"1s\"\n[collector]\nsource = \"conntrack\"\nmode = \"{mode}\"\n\
             [[output]]\naddress = \"stdout:\"\n"
        );
        let mut daemon = daemon(directory.path(), &body);
        daemon.until("it has counted once", |daemon| {
            daemon.stdout.contains("conntally.collector.resyncs:")
        });
        Self { directory, daemon }
    }

    fn ask(&self, arguments: &[&str]) -> Vec<Value> {
        let config = self.config();
        let config = config.to_str().unwrap();
        let fixed = ["connections", "--config", config, "--format", "json"];
        let ended = conntally([&fixed[..], arguments].concat());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("conntally.toml")
    }

    /// The lines that answer a request.
    fn request(&self, line: &str) -> Vec<Value> {
        request(&self.directory.path().join("admin.socket"), line)
    }

    /// Asks until a client has been told of so many ends.
    fn ends(&mut self, client: &str, count: usize) -> Vec<Value> {
        let mut ends = Vec::new();
        while ends.len() < count {
            assert!(self.daemon.runs());
            let answer = self.ask(&["--client", client]);
            ends.extend(answer.into_iter().filter(|line| line["type"] == "ended"));
        }
        ends
    }
}

fn request(socket: &Path, line: &str) -> Vec<Value> {
    let mut stream = UnixStream::connect(socket).unwrap();
    let request = format!("{line} HTTP/1.0\r\nHost: conntally\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{head}");
    body.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

fn ports(ends: &[Value]) -> Vec<u64> {
    let mut ports: Vec<_> = ends
        .iter()
        .map(|line| line["original"]["src_port"].as_u64().unwrap())
        .collect();
    ports.sort_unstable();
    ports
}

#[test]
fn each_client_is_told_each_end_once_at_its_own_pace() {
    isolated(&[], || {
        let mut rig = Rig::start("events");
        assert_eq!(rig.ask(&["--client", "first"]).len(), 1);
        inject::inject([tcp(1, OPEN), tcp(2, OPEN)]);
        inject::delete([tcp(1, OPEN)]);
        assert_eq!(ports(&rig.ends("first", 1)), [1]);
        rig.ask(&["--client", "second"]);
        // The same tuple again is another connection.
        inject::inject([tcp(1, OPEN)]);
        inject::delete([tcp(1, OPEN), tcp(2, OPEN)]);
        assert_eq!(ports(&rig.ends("first", 2)), [1, 2]);
        assert_eq!(ports(&rig.ends("second", 2)), [1, 2]);
        let last = rig.ask(&["--client", "first"]);
        assert_eq!(last.len(), 1, "{last:?}");
        assert_eq!(last[0]["delta"]["dropped"], 0);
    });
}

#[test]
fn what_fails_says_why_and_filters_choose() {
    isolated(&[], || {
        let mut rig = Rig::start("events");
        rig.ask(&["--client", "me"]);
        rig.ask(&["--client", "choosy"]);
        inject::inject([tcp(1, TcpState::SynSent), tcp(2, OPEN)]);
        inject::delete([tcp(1, TcpState::SynSent), tcp(2, OPEN)]);
        let ends = rig.ends("me", 2);
        let failed = ends.iter().find(|end| end["end"] == "failed").unwrap();
        assert_eq!(failed["reason"], "timeout");
        assert_eq!(failed["original"]["src_port"], 1);
        let chosen = rig.ask(&["--client", "choosy", "--state", "failed"]);
        assert_eq!(ports(&chosen[..chosen.len() - 1]), [1]);
    });
}

#[test]
fn a_connection_that_a_client_hides_is_not_shown_to_it_again() {
    isolated(&[], || {
        let mut rig = Rig::start("events");
        inject::inject([tcp(1, OPEN), tcp(2, OPEN)]);
        let shown = rig.ask(&["--client", "me"]);
        let of_port = |port: u64| {
            let is_it = |line: &&Value| line["original"]["src_port"] == port;
            shown.iter().find(is_it).unwrap()["key"].as_str().unwrap()
        };
        rig.request(&format!("DELETE /clients/me/connections/{}", of_port(1)));
        rig.ask(&["--client", "other"]);
        assert_eq!(rig.ask(&["--client", "me"]).len(), 2);
        inject::delete([tcp(1, OPEN), tcp(2, OPEN)]);
        assert_eq!(ports(&rig.ends("me", 1)), [2]);
        assert_eq!(ports(&rig.ends("other", 2)), [1, 2]);
    });
}

#[test]
fn a_flush_tells_of_what_is_over_but_still_in_the_table() {
    isolated(&[], || {
        for mode in ["events", "hybrid", "dump"] {
            let rig = Rig::start(mode);
            rig.ask(&["--client", "me"]);
            inject::inject([tcp(1, TcpState::TimeWait), tcp(2, OPEN)]);
            let answer = rig.ask(&["--client", "me", "--flush"]);
            let ends: Vec<_> = answer
                .iter()
                .filter(|line| line["type"] == "ended")
                .cloned()
                .collect();
            // Nothing is followed in mode dump, so that nothing ends.
            let expected: &[u64] = if mode == "dump" { &[] } else { &[1] };
            assert_eq!(ports(&ends), expected, "{mode}");
            inject::delete([tcp(1, TcpState::TimeWait), tcp(2, OPEN)]);
        }
    });
}

#[test]
fn a_collector_that_pauses_reads_nothing_until_it_is_told_to_go_on() {
    isolated(&[], || {
        let mut rig = Rig::start("events");
        rig.request("POST /collector/pause");
        let paused = &rig.request("GET /collector")[0];
        assert_eq!(paused["paused"], true);
        inject::inject([tcp(1, OPEN), tcp(2, OPEN)]);
        assert_eq!(rig.request("GET /collector")[0]["flows"], 0);
        rig.request("POST /collector/resume");
        let answer = rig.request("GET /collector");
        assert_eq!(
            (&answer[0]["flows"], &answer[0]["mode"]),
            (&2.into(), &"events".into())
        );
        let rows = rig.request("GET /debug/tables");
        assert_eq!(rows.iter().filter(|row| row["type"] == "flow").count(), 2);
        rig.daemon.until("they are counted as opened", |daemon| {
            daemon
                .stdout
                .contains("conntally.collector.flows_opened:2|c")
        });
    });
}

#[test]
fn a_second_daemon_on_the_same_admin_socket_is_refused() {
    isolated(&[], || {
        let rig = Rig::start("events");
        let body = "[collector]\nsource = \"off\"\n";
        configuration(rig.directory.path(), body);
        let config = rig.config();
        let ended = conntally(["run", "--config", config.to_str().unwrap()]);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains("admin.socket"), "{}", ended.stderr);
    });
}
