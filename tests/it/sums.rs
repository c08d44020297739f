//! The sum test: whatever becomes of the receiver, what it got, all its lives together,
//! is what was sent.
//!
//! Eight senders send increments and gauges through the daemon, while its receiver, a
//! process, is ended and started again at the same address, is stopped, reads byte by
//! byte, or is replaced behind a new socket file.
//!
//! Ended by SIGKILL it takes along what lay unread in its socket, and no more. With
//! `block` each line is one increment, so that this is a bound in increments too; a
//! line of `merge` may stand for many. Ended at its end it takes nothing along.
//! Over UDP, that holds while nothing overruns the receiver's socket, to which `rate`
//! sees.

mod relay;
mod senders;

use self::relay::{Life, Outcome, Relay, Way};
use self::senders::SHORTEST_LINE;
use crate::support::proc::sysctl;

/// How often a receiver is killed.
const KILLS: usize = 100;
/// How often one is ended without loss.
const ENDS: usize = 12;

/// Frames of each sender in a round.
fn frames(scheme: &str, way: Way) -> usize {
    match (scheme, way) {
        // What `rate` lets through in about the time that a round takes.
        ("udp", Way::Killed) => 2,
        ("udp", Way::AtItsEnd) => 6,
        (_, Way::Killed) => 10,
        (_, Way::AtItsEnd) => 60,
    }
}

/// A payload: of UDP, of the others.
const UDP_PAYLOAD: u64 = 1432;
const PAYLOAD: u64 = 8 << 10;

/// What goes through a UDP receiver's default buffer even if it is not scheduled for
/// a quarter of a second.
const UDP: &str = "rate = \"512KiB/s\"\nburst = \"4KiB\"";

/// Datagrams that lie unread in a UDP receiver's socket at such a rate when it is killed,
/// in the mean at most. Its buffer holds some ninety.
const UDP_UNREAD: u64 = 1;

/// What may lie unread in a receiver's socket, lines.
fn most_unread(scheme: &str) -> usize {
    let bytes = match scheme {
        "unixstream" => sysctl("net/core/wmem_default", 0),
        // One more than the limit is taken.
        "unixgram" => (sysctl("net/unix/max_dgram_qlen", 0) + 1) * PAYLOAD,
        "tcp" => sysctl("net/ipv4/tcp_wmem", 2) + sysctl("net/ipv4/tcp_rmem", 2),
        _ => UDP_UNREAD * UDP_PAYLOAD,
    };
    usize::try_from(bytes).unwrap() / SHORTEST_LINE
}

/// The life of this round's receiver, where one in so many is peculiar.
fn life(scheme: &str, round: usize, one_in: usize) -> Life {
    // What overruns a UDP receiver meanwhile nobody can know.
    if !(round + 1).is_multiple_of(one_in) || scheme == "udp" {
        return Life::Plain;
    }
    match (round / one_in) % 3 {
        0 => Life::Stopped,
        1 if scheme != "tcp" => Life::Replaced,
        _ => Life::Slow,
    }
}

#[track_caller]
fn assert_equal(outcome: &Outcome) {
    let Outcome {
        sent,
        received,
        counted,
    } = outcome;
    counted.assert_balanced();
    assert_eq!(counted.accepted, sent.lines, "{counted:?}");
    assert_eq!(counted.dropped, 0, "{counted:?}");
    assert_eq!(counted.sent, received.lines, "{counted:?}");
    assert_eq!(received.counts, sent.counts);
    assert_eq!(received.gauges, sent.gauges);
}

fn outlives_kills(scheme: &str, output: &str) {
    let mut relay = Relay::start(scheme, output, frames(scheme, Way::Killed));
    for round in 0..KILLS {
        relay.round(life(scheme, round, 25), Way::Killed);
    }
    relay.send();
    let Outcome {
        sent,
        received,
        counted,
    } = relay.finish();
    counted.assert_balanced();
    assert_eq!(counted.accepted, sent.lines, "{counted:?}");
    assert_eq!(counted.dropped, 0, "{counted:?}");
    for (context, &count) in &received.counts {
        assert!(count <= sent.counts[context], "{context}: {count} received");
    }
    assert_eq!(received.gauges, sent.gauges);
    let missing = counted.sent - received.lines;
    let increments = sent.increments() - received.increments();
    println!(
        "{scheme}: {missing} lines with {increments} of {} increments died with {KILLS} receivers, \
         {counted:?}",
        sent.increments()
    );
    assert!(missing <= KILLS * most_unread(scheme), "{missing}");
    if counted.merged == 0 {
        assert!(increments <= missing, "{increments}");
    }
    if scheme != "udp" {
        assert!(missing <= counted.at_risk, "{missing}, {counted:?}");
        // The daemon goes by what its own socket holds, and the last write beyond that.
        let most = match scheme {
            "unixgram" => most_unread("unixstream"),
            _ => most_unread(scheme),
        };
        assert!(
            counted.at_risk <= 2 * counted.connects * most,
            "{counted:?}"
        );
        assert!(counted.connects > KILLS / 10, "{counted:?}");
    }
}

fn loses_nothing_over_restarts(scheme: &str, output: &str) {
    let mut relay = Relay::start(scheme, output, frames(scheme, Way::AtItsEnd));
    for round in 0..ENDS {
        relay.round(life(scheme, round, 4), Way::AtItsEnd);
    }
    relay.send();
    let outcome = relay.finish();
    println!("{scheme}: {:?}", outcome.counted);
    assert_equal(&outcome);
}

const BLOCK: &str = "on_full = \"block\"";
const MERGE: &str = "on_full = \"merge\"";

#[test]
fn a_unix_stream_receiver_killed_a_hundred_times_costs_what_it_had_not_read() {
    outlives_kills("unixstream", BLOCK);
}

#[test]
fn a_unix_datagram_receiver_killed_a_hundred_times_costs_what_it_had_not_read() {
    outlives_kills("unixgram", BLOCK);
}

#[test]
fn a_tcp_receiver_killed_a_hundred_times_costs_what_it_had_not_read() {
    outlives_kills("tcp", BLOCK);
}

#[test]
fn a_udp_receiver_killed_a_hundred_times_costs_what_it_had_not_read() {
    outlives_kills("udp", &format!("{BLOCK}\n{UDP}"));
}

#[test]
fn a_unix_stream_receiver_killed_a_hundred_times_costs_the_merged_lines_it_had_not_read() {
    outlives_kills("unixstream", MERGE);
}

#[test]
fn a_live_udp_receiver_gets_every_increment() {
    for on_full in [BLOCK, MERGE] {
        let relay = Relay::start("udp", &format!("{on_full}\n{UDP}"), 60);
        relay.send();
        assert_equal(&relay.finish());
    }
}

#[test]
fn a_unix_stream_receiver_that_goes_at_its_end_costs_nothing() {
    loses_nothing_over_restarts("unixstream", MERGE);
}

#[test]
fn a_unix_datagram_receiver_that_goes_at_its_end_costs_nothing() {
    loses_nothing_over_restarts("unixgram", MERGE);
}

#[test]
fn a_tcp_receiver_that_goes_at_its_end_costs_nothing() {
    loses_nothing_over_restarts("tcp", MERGE);
}

#[test]
fn a_udp_receiver_that_goes_at_its_end_costs_nothing() {
    loses_nothing_over_restarts("udp", &format!("{MERGE}\n{UDP}"));
}
