//! Outputs, against receivers in processes of their own.

mod outage;
mod receiver;
mod restarts;
mod stdout;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use conntally::address::Address;
use conntally::config::{self, ByteSize, Interval, LineSource, OnFull};
use conntally::output::backlog::OWN;
use conntally::output::queue::Inlet;
use conntally::output::{Ending, Output};
use conntally::telemetry::{LineDrop, OutputCounters, OutputError};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::receiver::{Received, Receiver, line};

const TICK: Duration = Duration::from_secs(10);

/// No test takes nearly so long, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A line is never longer.
const LINE_BYTES: u64 = 160;

/// Small, so that it is soon full.
const QUEUE: ByteSize = ByteSize::kib(256);

/// Whether the queue is as full as it gets while its output stands still: the chunk on
/// its way, 124 KiB at most, keeps its room until all of it has gone.
fn is_full(counters: &OutputCounters) -> bool {
    counters.held() * LINE_BYTES > QUEUE.as_usize() as u64 / 2
}

struct Sender {
    inlet: Inlet,
    counters: Arc<OutputCounters>,
    abandon: CancellationToken,
    task: JoinHandle<Ending>,
}

fn settings(address: &Address) -> config::Output {
    config::Output {
        address: address.clone(),
        flush_interval: Interval::from_millis(5),
        queue: QUEUE,
        on_full: OnFull::Block,
        ..config::Output::default()
    }
}

impl Sender {
    fn start(config: &config::Output) -> Self {
        let counters = Arc::new(OutputCounters::default());
        let (inlet, output) = Output::new(config, "", TICK, Arc::clone(&counters));
        let abandon = CancellationToken::new();
        Self {
            inlet: inlet.for_source(LineSource::Listeners),
            counters,
            task: tokio::spawn(output.run(abandon.clone())),
            abandon,
        }
    }

    fn to(address: &Address) -> Self {
        Self::start(&settings(address))
    }

    /// Sends the lines with these numbers, waiting for room.
    async fn send(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let line = line(number);
            let room = timeout(PATIENCE, self.inlet.reserve(line.len())).await;
            let mut room = room.expect("room comes free").unwrap();
            room.push(line.as_bytes(), 1, OWN);
        }
    }

    /// Sends `count` lines in a task of their own; ends with the last.
    fn send_all(self, count: u64) -> JoinHandle<Arc<OutputCounters>> {
        tokio::spawn(async move {
            self.send(0..count).await;
            self.end_drained().await
        })
    }

    /// No more comes: waits until all is sent.
    async fn end_drained(self) -> Arc<OutputCounters> {
        drop(self.inlet);
        let ending = timeout(PATIENCE, self.task).await.unwrap().unwrap();
        assert_eq!(ending, Ending::Drained);
        assert_eq!(self.counters.held(), 0);
        assert_eq!(
            self.counters.accepted.get(),
            self.counters.sent.get() + self.counters.dropped.total()
        );
        self.counters
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("x.socket")
    }

    fn address(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.path().display())
    }

    fn receiver(&self, address: &str) -> Receiver {
        Receiver::start(address, &self.log())
    }
}

#[tokio::test]
async fn a_receiver_absent_at_first_gets_everything_once_it_comes() {
    for scheme in ["unixstream", "unixgram", "unix"] {
        let place = Place::new();
        let sender = Sender::to(&place.address(scheme).parse().unwrap());
        sender.send(0..100).await;
        let counters = Arc::clone(&sender.counters);
        eventually("refused", || counters.errors.get(OutputError::Connect) > 1).await;
        assert_eq!(counters.held(), 100);
        let kind = if scheme == "unixgram" {
            scheme
        } else {
            "unixstream"
        };
        let receiver = place.receiver(&place.address(kind));
        sender.end_drained().await;
        receiver.stop().await.assert_whole(100);
    }
}

#[tokio::test]
async fn a_socket_of_either_kind_is_found_out_and_again_after_a_change() {
    let place = Place::new();
    let mut receiver = place.receiver(&place.address("unixgram"));
    let sender = Sender::to(&place.address("unix").parse().unwrap());
    let mut sent = 0;
    for kind in ["unixstream", "unixgram", "unixstream"] {
        sender.send(sent..sent + 500).await;
        sent += 500;
        let counters = Arc::clone(&sender.counters);
        eventually("sent", || counters.held() == 0).await;
        receiver.stop().await;
        receiver = place.receiver(&place.address(kind));
    }
    sender.send(sent..sent + 500).await;
    sender.end_drained().await;
    receiver.stop().await.assert_whole(sent + 500);
}

#[tokio::test]
async fn a_receiver_that_stands_still_blocks_its_senders_and_then_gets_everything() {
    let place = Place::new();
    for scheme in ["unixstream", "unixgram"] {
        let log = place.dir.path().join(scheme);
        let receiver = Receiver::start(&place.address(scheme), &log);
        let sender = Sender::to(&receiver.address);
        let counters = Arc::clone(&sender.counters);
        eventually("connected", || counters.connects.get() == 1).await;
        receiver.signal(Signal::STOP);
        let (mut number, mut refused_in_a_row) = (0, 0);
        while refused_in_a_row < 20 {
            let line = line(number);
            if let Some(mut room) = sender.inlet.try_reserve(line.len()) {
                room.push(line.as_bytes(), 1, OWN);
                (number, refused_in_a_row) = (number + 1, 0);
            } else {
                refused_in_a_row += 1;
                sleep(Duration::from_millis(1)).await;
            }
        }
        assert!(counters.held() > 0);
        assert_eq!(counters.accepted.get(), number);
        let blocked = timeout(Duration::from_millis(50), sender.send(number..number + 1));
        assert!(blocked.await.is_err());
        receiver.signal(Signal::CONT);
        sender.send(number..number + 1000).await;
        let counters = sender.end_drained().await;
        assert_eq!(counters.connects.get(), 1);
        assert_eq!(counters.dropped.total(), 0);
        receiver.stop().await.assert_whole(number + 1000);
    }
}

#[tokio::test]
async fn udp_receivers_are_reached_by_either_family_and_by_name() {
    for (listens, asked) in [
        ("udp://127.0.0.1:0", None),
        ("udp://[::1]:0", None),
        ("udp://127.0.0.1:0", Some("localhost")),
    ] {
        let place = Place::new();
        let receiver = place.receiver(listens);
        let mut address = receiver.address.clone();
        if let (Address::Udp(end), Some(name)) = (&mut address, asked) {
            name.clone_into(&mut end.host);
        }
        let sender = Sender::to(&address);
        sender.send(0..500).await;
        let counters = sender.end_drained().await;
        assert_eq!(counters.sent.get(), 500);
        assert!(counters.payloads.get() >= 500 * 80 / 1432);
        receiver.stop().await.assert_whole(500);
    }
}

#[tokio::test]
async fn datagrams_that_nobody_takes_are_sent_again_when_somebody_does() {
    let place = Place::new();
    let mut receiver = place.receiver("udp://127.0.0.1:0");
    let address = receiver.address.clone();
    let sender = Sender::to(&address);
    let counters = Arc::clone(&sender.counters);
    sender.send(0..1).await;
    eventually("read", || receiver.progress() > 0).await;
    receiver.kill();
    sender.send(1..1000).await;
    eventually("refused", || counters.errors.get(OutputError::Refused) > 2).await;
    assert_eq!((counters.sent.get(), counters.held()), (1, 999));
    let receiver = place.receiver(&address.to_string());
    let counters = sender.end_drained().await;
    assert_eq!(counters.connects.get(), 2);
    receiver.stop().await.assert_whole(1000);
}

#[tokio::test]
async fn a_payload_that_the_transport_does_not_take_is_dropped_alone() {
    let place = Place::new();
    for (address, large) in [
        ("udp://127.0.0.1:0".to_owned(), 70_000),
        (place.address("unixgram"), 400_000),
    ] {
        let log = place.dir.path().join(large.to_string());
        let receiver = Receiver::start(&address, &log);
        let sender = Sender::start(&config::Output {
            max_payload: Some(ByteSize(500_000)),
            queue: ByteSize::mib(1),
            ..settings(&receiver.address)
        });
        sender
            .inlet
            .offer(format!("{}:1|c\n", "x".repeat(large)).as_bytes());
        let counters = Arc::clone(&sender.counters);
        eventually("dropped", || {
            counters.dropped.get(LineDrop::MessageSize) == 1
        })
        .await;
        sender.send(0..10).await;
        let counters = sender.end_drained().await;
        assert_eq!(counters.sent.get(), 10);
        assert_eq!(counters.connects.get(), 1);
        receiver.stop().await.assert_whole(10);
    }
}

#[tokio::test]
async fn what_is_left_when_the_grace_is_over_is_counted() {
    let place = Place::new();
    let sender = Sender::to(&place.address("unixstream").parse().unwrap());
    sender.send(0..100).await;
    sender.abandon.cancel();
    let ending = timeout(PATIENCE, sender.task).await.unwrap().unwrap();
    assert_eq!(ending, Ending::Abandoned { lines: 100 });
    sender.inlet.offer(b"a:1|c\n");
    assert_eq!(sender.counters.dropped.get(LineDrop::Shutdown), 101);
    assert_eq!(sender.counters.held(), 0);
}

#[tokio::test]
async fn a_write_that_stands_still_does_not_hold_up_the_end_of_the_grace() {
    let place = Place::new();
    let receiver = place.receiver(&place.address("unixstream"));
    let sender = Sender::to(&receiver.address);
    let counters = Arc::clone(&sender.counters);
    sender.send(0..1).await;
    eventually("accepted", || receiver.progress() > 0).await;
    receiver.signal(Signal::STOP);
    tokio::select! {
        () = sender.send(1..1_000_000) => panic!("all went to a receiver that stands still"),
        () = eventually("the queue fills up", || is_full(&counters)) => {}
    }
    sender.abandon.cancel();
    let ending = timeout(PATIENCE, sender.task).await.unwrap().unwrap();
    let left = counters.accepted.get() - counters.sent.get();
    assert_eq!(ending, Ending::Abandoned { lines: left });
    assert_eq!(counters.dropped.get(LineDrop::Shutdown), left);
    receiver.signal(Signal::CONT);
    let sent = counters.sent.get();
    // A frame that was cut stays cut: what was counted as sent arrived, no more.
    receiver.stop().await.assert_whole(sent);
}

#[tokio::test]
async fn an_output_without_receiver_ends_at_once_when_there_is_nothing_to_send() {
    let place = Place::new();
    for address in [
        place.address("unixstream"),
        "udp://no-such-host.invalid:1".to_owned(),
    ] {
        let sender = Sender::to(&address.parse().unwrap());
        let counters = Arc::clone(&sender.counters);
        eventually("failed", || counters.errors.total() > 0).await;
        sender.end_drained().await;
    }
}

#[test]
fn a_log_of_garbled_lines_is_told_from_a_clean_one() {
    let log = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(log.path(), "1\n2\n2\n\"t.3:7|c\"\n").unwrap();
    let received = Received::read(log.path());
    assert_eq!(received.numbers.len(), 2);
    assert_eq!(received.repeated, 1);
    assert_eq!(received.garbled.len(), 1);
}
