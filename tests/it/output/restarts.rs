//! Receivers that are killed or restarted while lines flow.

use std::sync::Arc;

use conntally::telemetry::OutputError;
use rustix::process::Signal;

use super::receiver::READ_BYTES;
use super::{LINE_BYTES, Place, Sender, eventually, is_full};
use crate::support::proc::sysctl;

/// Kills the receiver three times while lines flow, and starts another on the
/// address each time. Checks that nothing is garbled, repeated or uncounted, and
/// that no more is missing than a killed receiver had taken, or the kernel for it.
async fn outlives_killed_receivers(place: &Place, address: &str, lines: u64, bound: u64) {
    const KILLS: u64 = 3;
    let mut receiver = place.receiver(address);
    let address = receiver.address.clone();
    let sender = Sender::to(&address);
    let counters = Arc::clone(&sender.counters);
    let sending = sender.send_all(lines);
    for kill in 0..KILLS {
        let before = receiver.progress();
        eventually("the receiver gets lines", || {
            receiver.progress() > before + 20_000
        })
        .await;
        if kill == 1 {
            // Once with full buffers, and a payload cut in the midst.
            receiver.signal(Signal::STOP);
            eventually("the queue fills up", || is_full(&counters)).await;
        }
        assert!(!sending.is_finished(), "under load no more");
        receiver.kill();
        receiver = place.receiver(&address.to_string());
    }
    let counters = sending.await.unwrap();
    assert_eq!(counters.sent.get(), lines);
    assert_eq!(counters.dropped.total(), 0);
    assert!(counters.connects.get() > KILLS);
    let taken = receiver.stop().await;
    taken.assert_clean();
    let missing = lines - taken.numbers.len() as u64;
    println!(
        "{address}: {missing} of {lines} lines died with {KILLS} receivers; bound: {bound} bytes each"
    );
    assert!(missing * LINE_BYTES / 2 <= KILLS * bound, "{missing}");
    assert!(taken.numbers.contains(&(lines - 1)));
}

#[tokio::test]
async fn unix_stream_receivers_killed_under_load_cost_what_they_had_taken_and_no_more() {
    let place = Place::new();
    let bound = sysctl("net/core/wmem_default", 0) + READ_BYTES as u64;
    outlives_killed_receivers(&place, &place.address("unixstream"), 400_000, bound).await;
}

#[tokio::test]
async fn tcp_receivers_killed_under_load_cost_what_they_had_taken_and_no_more() {
    let bound = sysctl("net/ipv4/tcp_wmem", 2) + sysctl("net/ipv4/tcp_rmem", 2);
    outlives_killed_receivers(&Place::new(), "tcp://127.0.0.1:0", 400_000, bound).await;
}

#[tokio::test]
async fn unix_datagram_receivers_killed_under_load_cost_what_they_had_taken_and_no_more() {
    let place = Place::new();
    // One more is in the receiver's hands, and one the kernel takes beyond the limit.
    let bound = (sysctl("net/unix/max_dgram_qlen", 0) + 2) * 8192;
    outlives_killed_receivers(&place, &place.address("unixgram"), 400_000, bound).await;
}

/// Restarts the receiver as an agent restarts: it says goodbye, reads what is
/// there, and another takes its place.
async fn loses_nothing_over_restarts(place: &Place, address: &str) {
    const LINES: u64 = 100_000;
    let mut receiver = place.receiver(address);
    let address = receiver.address.clone();
    let sending = Sender::to(&address).send_all(LINES);
    for _ in 0..3 {
        let before = receiver.progress();
        eventually("the receiver gets lines", || {
            receiver.progress() > before + 20_000
        })
        .await;
        assert!(!sending.is_finished(), "under load no more");
        receiver.stop().await;
        receiver = place.receiver(&address.to_string());
    }
    assert_eq!(sending.await.unwrap().sent.get(), LINES);
    receiver.stop().await.assert_whole(LINES);
}

#[tokio::test]
async fn a_unix_stream_receiver_that_reads_to_the_end_loses_nothing_over_restarts() {
    let place = Place::new();
    loses_nothing_over_restarts(&place, &place.address("unixstream")).await;
}

#[tokio::test]
async fn a_tcp_receiver_that_reads_to_the_end_loses_nothing_over_restarts() {
    loses_nothing_over_restarts(&Place::new(), "tcp://127.0.0.1:0").await;
}

#[tokio::test]
async fn an_idle_stream_is_connected_again_before_there_is_anything_to_send() {
    let place = Place::new();
    for address in [place.address("unixstream"), "tcp://127.0.0.1:0".to_owned()] {
        let mut receiver = place.receiver(&address);
        let address = receiver.address.clone();
        let sender = Sender::to(&address);
        let counters = Arc::clone(&sender.counters);
        eventually("connected", || counters.connects.get() == 1).await;
        receiver.kill();
        eventually("noticed", || counters.errors.get(OutputError::Send) == 1).await;
        let again = place.receiver(&address.to_string());
        eventually("connected again", || counters.connects.get() == 2).await;
        sender.end_drained().await;
        drop(again);
    }
}
