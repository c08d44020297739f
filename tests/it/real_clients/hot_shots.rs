//! hot-shots, the client that programs for node use, over each transport that it knows.

use super::{Traffic, sends};
use crate::support::daemon::clean;
use crate::support::tools::{hot_shots, skip};

/// Lines that the fixture sends over TCP; over the others it sends two more, of which the
/// last is an event whose lengths count characters.
const LINES: usize = 517;

const KINDS: [&str; 10] = [
    "|c|",
    "|g|",
    "|h|",
    "|d|",
    "|ms|",
    "|s|",
    "|T1700000000",
    "|card:low",
    "_e{",
    "_sc|",
];

#[track_caller]
fn hot_shots_arrives_unchanged(test: &str, scheme: &str, direct: &str, bufferings: &[&str]) {
    let Some(modules) = hot_shots() else {
        return skip(
            test,
            "node has no hot-shots or unix-dgram; .ci/run installs them",
        );
    };
    let traffic = Traffic {
        scheme,
        direct,
        lines: LINES + if scheme == "tcp" { 0 } else { 2 },
        kinds: &KINDS,
    };
    for buffering in bufferings {
        traffic.arrives_unchanged(|address| {
            let mut node = clean("node");
            node.env("NODE_PATH", &modules);
            sends(&mut node, "hot_shots_client.js", address, buffering);
        });
    }
}

#[test]
fn what_hot_shots_sends_over_unixgram_arrives_unchanged() {
    const TEST: &str = "what_hot_shots_sends_over_unixgram_arrives_unchanged";
    hot_shots_arrives_unchanged(TEST, "unixgram", "unixgram", &["buffered", "unbuffered"]);
}

/// The client knows streams: what it writes there are lines.
#[test]
fn what_hot_shots_sends_over_a_unix_stream_arrives_unchanged() {
    const TEST: &str = "what_hot_shots_sends_over_a_unix_stream_arrives_unchanged";
    hot_shots_arrives_unchanged(TEST, "unixstream", "unixlines", &["buffered", "unbuffered"]);
}

#[test]
fn what_hot_shots_sends_over_tcp_arrives_unchanged() {
    const TEST: &str = "what_hot_shots_sends_over_tcp_arrives_unchanged";
    hot_shots_arrives_unchanged(TEST, "tcp", "tcp", &["buffered", "unbuffered"]);
}

/// A datagram a line would be more than a receiver's buffer surely takes.
#[test]
fn what_hot_shots_sends_over_udp_arrives_unchanged() {
    const TEST: &str = "what_hot_shots_sends_over_udp_arrives_unchanged";
    hot_shots_arrives_unchanged(TEST, "udp", "udp", &["buffered"]);
}
