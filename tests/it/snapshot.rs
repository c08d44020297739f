//! `conntally snapshot` on a table whose entries are known.

use std::net::IpAddr;

use conntally::flow::{Protocol, State, TcpState, Tuple};
use serde_json::Value;

use crate::support::daemon::{Ended, configuration, conntally};
use crate::support::inject;
use crate::support::netns::{isolated, run};

const HERE: &str = "10.99.0.1";
/// A host that we called: in every general state.
const CALLED: &str = "192.0.2.7";
/// A host that called us.
const CALLER: &str = "198.51.100.9";

/// One connection of each of these, by general state: 1 opening, 2 open, 2 closing, 1 closed.
const STATES: [TcpState; 6] = [
    TcpState::SynSent,
    TcpState::Established,
    TcpState::Established,
    TcpState::FinWait,
    TcpState::TimeWait,
    TcpState::Close,
];

fn fill() {
    run(&format!("ip address add {HERE}/32 dev lo"));
    let [here, there, guest]: [IpAddr; 3] =
        [HERE, CALLED, CALLER].map(|address| address.parse().unwrap());
    let outbound = (40_000..).zip(STATES).map(|(port, state)| {
        let original = Tuple {
            src: here,
            dst: there,
            src_port: port,
            dst_port: 443,
        };
        inject::flow(Protocol::Tcp, State::Tcp(state), original)
    });
    let inbound = (50_000..50_003).map(|port| {
        let original = Tuple {
            src: guest,
            dst: here,
            src_port: port,
            dst_port: 22,
        };
        inject::flow(Protocol::Tcp, State::Tcp(TcpState::Established), original)
    });
    inject::inject(outbound.chain(inbound));
}

/// `snapshot` of the filled table; the configuration names the source, lest it choose.
fn snapshot(arguments: &[&str]) -> Ended {
    let directory = tempfile::tempdir().unwrap();
    let config = configuration(directory.path(), "[collector]\nsource = \"conntrack\"\n");
    let config = config.display().to_string();
    let ended = conntally([&["snapshot", "--config", &config], arguments].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended
}

#[test]
fn a_snapshot_as_json_has_a_row_per_remote_host() {
    isolated(&[], || {
        fill();
        let text = snapshot(&["--format", "json"]).stdout;
        let rows: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(rows.len(), 2, "{text}");
        let row = |host: &str| rows.iter().find(|row| row["host"] == host).unwrap();
        let expected = serde_json::json!({
            "host": CALLED, "direction": "outbound", "protocol": "tcp",
            "opening": 1, "open": 2, "closing": 2, "closed": 1,
        });
        assert_eq!(row(CALLED), &expected);
        let expected = serde_json::json!({
            "host": CALLER, "direction": "inbound", "protocol": "tcp",
            "opening": 0, "open": 3, "closing": 0, "closed": 0,
        });
        assert_eq!(row(CALLER), &expected);
    });
}

#[test]
fn a_snapshot_as_a_table_has_the_states_beside_each_other() {
    isolated(&[], || {
        fill();
        let text = snapshot(&[]).stdout;
        let row = |host: &str| -> Vec<u32> {
            let line = text.lines().find(|line| line.contains(host)).unwrap();
            line.split_whitespace()
                .filter_map(|word| word.parse().ok())
                .collect()
        };
        assert_eq!(row(CALLED)[..4], [1, 2, 2, 1], "{text}");
        assert_eq!(row(CALLER)[..4], [0, 3, 0, 0], "{text}");
        let first = text.find(CALLED).unwrap();
        assert!(
            first < text.find(CALLER).unwrap(),
            "the largest first: {text}"
        );
    });
}

#[test]
fn a_snapshot_can_be_cut_and_sorted() {
    isolated(&[], || {
        fill();
        let text = snapshot(&["--format", "json", "--sort", "open", "--top", "1"]).stdout;
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(CALLER), "{text}");
    });
}

#[test]
fn a_snapshot_as_statsd_is_what_the_daemon_would_send() {
    isolated(&[], || {
        fill();
        let text = snapshot(&["--format", "statsd"]).stdout;
        let open = text
            .lines()
            .find(|line| line.contains(CALLED) && line.contains("state:open,"))
            .or_else(|| {
                text.lines()
                    .find(|line| line.contains(CALLED) && line.ends_with("state:open"))
            });
        let open = open.unwrap_or_else(|| panic!("{text}"));
        assert!(open.starts_with("conntrack.connections:2|g|#"), "{open}");
        assert!(open.contains("direction:outbound"), "{open}");
        assert!(open.contains("protocol:tcp"), "{open}");
    });
}
