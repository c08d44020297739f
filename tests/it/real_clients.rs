//! Clients as applications use them, through the program, to another process.
//!
//! What is expected is what the same client sends without the program in between,
//! byte for byte.

mod hot_shots;
mod metrics;

use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use cadence::prelude::*;
use cadence::{BufferedUdpMetricSink, BufferedUnixMetricSink, MetricSink, StatsdClient};
use cadence::{UdpMetricSink, UnixMetricSink};

use crate::support::clients::{free_tcp_port, free_udp_port};
use crate::support::daemon::{Program, clean, daemon};
use crate::support::receiver::Receiver;
use crate::support::tools::{python_with_datadog, skip};

/// Lines that the fixture sends, the two that are not metrics among them.
const DATADOG_LINES: usize = 515;

/// A daemon between a listener of this address and the receiver.
fn relay(directory: &Path, listener: &str, receiver: &Receiver) -> Program {
    daemon(
        directory,
        &format!(
            "[collector]\nsource = \"off\"\n\
             [report]\ntelemetry = false\n\
             [[listener]]\naddress = \"{listener}\"\norigin = \"none\"\n\
             [[output]]\naddress = \"{}\"\n",
            receiver.address
        ),
    )
}

/// What a client sends to the address that it is given.
struct Traffic<'a> {
    /// Of the daemon's listener.
    scheme: &'a str,
    /// Of a receiver that the client can send to without the daemon.
    direct: &'a str,
    lines: usize,
    /// Parts of which some line has each.
    kinds: &'a [&'a str],
}

impl Traffic<'_> {
    /// Lets the client send to a receiver, and to another one through the daemon: the same
    /// must come.
    #[track_caller]
    fn arrives_unchanged(&self, client: impl Fn(&str)) {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();

        let direct = Receiver::start(self.direct, &directory.join("direct"));
        client(&direct.address);
        let expected = direct.sorted(self.lines);
        assert_eq!(expected.len(), self.lines);
        for kind in self.kinds {
            let sent = expected.iter().any(|line| line.contains(kind));
            assert!(sent, "the client sent no {kind}");
        }

        let receiver = Receiver::start("unixstream", &directory.join("relayed"));
        let listener = match self.scheme {
            "tcp" => format!("tcp://127.0.0.1:{}", free_tcp_port()),
            "udp" => format!("udp://127.0.0.1:{}", free_udp_port()),
            scheme => format!("{scheme}://{}", directory.join("in.socket").display()),
        };
        let daemon = relay(directory, &listener, &receiver);
        client(&listener);
        assert_eq!(receiver.sorted(expected.len()), expected);
        assert_eq!(daemon.stop().code, Some(0));
        assert_eq!(receiver.lines().len(), expected.len(), "nothing came twice");
    }
}

/// Runs a client, of the fixtures, to its end.
#[track_caller]
fn sends(interpreter: &mut Command, fixture: &str, address: &str, buffering: &str) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let client = interpreter.arg(fixtures.join(fixture));
    let ended = Program::start(client.args([address, buffering])).wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[track_caller]
fn datadog_arrives_unchanged(python: &Path, scheme: &str, buffering: &str) {
    let traffic = Traffic {
        scheme,
        direct: scheme,
        lines: DATADOG_LINES,
        kinds: &[
            "|c|",
            "|g|",
            "|h|",
            "|d|",
            "|ms|",
            "|s|",
            "|T1700000000",
            "_e{",
            "_sc|",
        ],
    };
    traffic.arrives_unchanged(|address| {
        sends(&mut clean(python), "datadog_client.py", address, buffering);
    });
}

fn with_datadog(test: &str, body: impl FnOnce(PathBuf)) {
    match python_with_datadog() {
        Some(python) => body(python),
        None => skip(
            test,
            "no Python has the package datadog; .ci/run installs it",
        ),
    }
}

#[test]
fn what_the_datadog_client_sends_over_unixstream_arrives_unchanged() {
    with_datadog(
        "what_the_datadog_client_sends_over_unixstream_arrives_unchanged",
        |python| {
            datadog_arrives_unchanged(&python, "unixstream", "buffered");
            datadog_arrives_unchanged(&python, "unixstream", "unbuffered");
        },
    );
}

#[test]
fn what_the_datadog_client_sends_over_unixgram_arrives_unchanged() {
    with_datadog(
        "what_the_datadog_client_sends_over_unixgram_arrives_unchanged",
        |python| {
            datadog_arrives_unchanged(&python, "unixgram", "buffered");
            datadog_arrives_unchanged(&python, "unixgram", "unbuffered");
        },
    );
}

/// A datagram a line would be more than a receiver's buffer surely takes.
#[test]
fn what_the_datadog_client_sends_over_udp_arrives_unchanged() {
    with_datadog(
        "what_the_datadog_client_sends_over_udp_arrives_unchanged",
        |python| datadog_arrives_unchanged(&python, "udp", "buffered"),
    );
}

/// One of everything that cadence can send.
const CADENCE_LINES: [&str; 9] = [
    "app.connected:1|c|#env:test",
    "app.gauge:-4|g|#env:test,bare",
    "app.histogram:30|h|#env:test",
    "app.latency:1.5|d|@0.5|#env:test",
    "app.meter:2|m|#env:test",
    "app.packed:1:2:3|d|#env:test",
    "app.requests:42|c|#env:test,method:get|T1700000000",
    "app.timer:320|ms|#env:test",
    "app.users:7|s|#env:test",
];

fn cadence_sends(sink: impl MetricSink + Sync + Send + std::panic::RefUnwindSafe + 'static) {
    let client = StatsdClient::builder("app", sink)
        .with_tag("env", "test")
        .build();
    client.incr("connected").unwrap();
    client
        .count_with_tags("requests", 42)
        .with_tag("method", "get")
        .with_timestamp(1_700_000_000)
        .try_send()
        .unwrap();
    client
        .gauge_with_tags("gauge", -4.0)
        .with_tag_value("bare")
        .try_send()
        .unwrap();
    client.histogram("histogram", 30).unwrap();
    client
        .distribution_with_tags("latency", 1.5)
        .with_sampling_rate(0.5)
        .try_send()
        .unwrap();
    client.meter("meter", 2).unwrap();
    client.distribution("packed", vec![1, 2, 3]).unwrap();
    client.time("timer", 320).unwrap();
    client.set("users", 7).unwrap();
    client.flush().unwrap();
}

/// Meters are no `DogStatsD`: the Agent refuses them, and so does conntally.
fn accepted() -> Vec<&'static str> {
    CADENCE_LINES
        .into_iter()
        .filter(|line| !line.contains("|m|"))
        .collect()
}

#[test]
fn what_cadence_sends_over_udp_arrives_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start("unixstream", &directory.join("relayed"));
    let port = free_udp_port();
    let daemon = relay(directory, &format!("udp://127.0.0.1:{port}"), &receiver);
    let socket = || UdpSocket::bind("127.0.0.1:0").unwrap();
    let there = ("127.0.0.1", port);

    cadence_sends(UdpMetricSink::from(there, socket()).unwrap());
    assert_eq!(receiver.sorted(accepted().len()), accepted());
    cadence_sends(BufferedUdpMetricSink::from(there, socket()).unwrap());
    let mut twice = [accepted(), accepted()].concat();
    twice.sort_unstable();
    assert_eq!(receiver.sorted(twice.len()), twice);
    assert_eq!(daemon.stop().code, Some(0));
}

#[test]
fn what_cadence_sends_over_unixgram_arrives_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start("tcp", &directory.join("relayed"));
    let path = directory.join("in.socket");
    let listener = format!("unixgram://{}", path.display());
    let daemon = relay(directory, &listener, &receiver);
    let socket = || UnixDatagram::unbound().unwrap();

    cadence_sends(UnixMetricSink::from(&path, socket()));
    assert_eq!(receiver.sorted(accepted().len()), accepted());
    cadence_sends(BufferedUnixMetricSink::from(&path, socket()));
    let mut twice = [accepted(), accepted()].concat();
    twice.sort_unstable();
    assert_eq!(receiver.sorted(twice.len()), twice);
    assert_eq!(daemon.stop().code, Some(0));
}
