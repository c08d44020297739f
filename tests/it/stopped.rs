//! A receiver that stands still for six seconds, under 400,000 lines a second.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::clients::framed;
use crate::support::counted::Counted;
use crate::support::daemon::relay;
use crate::support::lines::total;
use crate::support::netns::PATIENCE;
use crate::support::proc::peak_memory;
use crate::support::receiver::Receiver;
use crate::support::tally::Tally;

/// How long the receiver stands still.
const STOP: Duration = Duration::from_secs(6);
/// Lines offered in a second.
const RATE: u128 = 400_000;
/// The longest frame that the listener takes.
const FRAME_BYTES: usize = 8 << 10;

/// What the daemon may have resident at most: itself as the tests build it, without
/// optimization, its queue of 4 MiB, buffers, and some contexts. What comes in six
/// seconds would be 100 MiB.
const MEMORY: u64 = 32 << 20;

/// A frame's lines, each of a context of its own.
fn payload() -> String {
    let line = |context| format!("stopped.count:1|c|#context:{context},service:relay\n");
    let mut payload = String::new();
    for line in (0..).map(line) {
        if payload.len() + line.len() > FRAME_BYTES {
            break;
        }
        payload.push_str(&line);
    }
    payload
}

/// Offers frames at the rate until then, and waits where it is made to. How many.
fn offer(listener: &Path, payload: &str, until: Instant) -> usize {
    let lines = payload.lines().count() as u128;
    let frame = framed(payload.as_bytes());
    let mut stream = UnixStream::connect(listener).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let begun = Instant::now();
    let mut frames = 0;
    while Instant::now() < until {
        if frames * lines * 1000 > begun.elapsed().as_millis() * RATE {
            thread::sleep(Duration::from_millis(1));
        } else {
            stream.write_all(&frame).unwrap();
            frames += 1;
        }
    }
    usize::try_from(frames).unwrap()
}

/// What came of it.
struct Outcome {
    /// Of each context.
    sent: usize,
    contexts: usize,
    received: Tally,
    counted: Counted,
    telemetry: String,
}

fn stands_still(on_full: &str) -> Outcome {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start("unixstream", &directory.join("out"));
    let listener = directory.join("in.socket");
    let mut daemon = relay(
        directory,
        &format!(
            "[[output]]\naddress = \"{}\"\nsources = [\"listeners\"]\non_full = \"{on_full}\"\n",
            receiver.address
        ),
    );
    let payload = payload();
    let contexts = payload.lines().count();
    let before = offer(&listener, &payload, Instant::now() + STOP / 12);
    receiver.sorted(1);
    receiver.pause();
    let until = Instant::now() + STOP;
    let offering = {
        let (listener, payload) = (listener.clone(), payload.clone());
        thread::spawn(move || offer(&listener, &payload, until))
    };
    // The receiver's six seconds, not a wait for anything: senders may wait longer.
    thread::sleep(until - Instant::now());
    receiver.resume();
    let sent = before + offering.join().unwrap();
    daemon.until("all is sent or dropped", |daemon| {
        let counted = Counted::of(&daemon.stdout.text(), &receiver.address);
        counted.have_gone(sent * contexts)
    });
    let peak = peak_memory(daemon.pid());
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let counted = Counted::of(&ended.stdout, &receiver.address);
    println!("{on_full}: {counted:?}, {peak} bytes resident at most");
    counted.assert_balanced();
    assert!(peak < MEMORY, "{peak}");
    receiver.sorted(counted.sent);
    Outcome {
        sent,
        contexts,
        received: Tally::of(receiver.lines()),
        counted,
        telemetry: ended.stdout,
    }
}

#[track_caller]
fn assert_nothing_is_lost(outcome: &Outcome) {
    assert_eq!(outcome.counted.dropped, 0);
    assert_eq!(outcome.received.counts.len(), outcome.contexts);
    let is_whole = |&count: &usize| count == outcome.sent;
    let counts = &outcome.received.counts;
    assert!(counts.values().all(is_whole), "{counts:?}");
}

#[test]
fn a_receiver_stopped_for_six_seconds_gets_every_count_with_merge() {
    let outcome = stands_still("merge");
    assert!(outcome.counted.merged > 0);
    assert_nothing_is_lost(&outcome);
}

#[test]
fn a_receiver_stopped_for_six_seconds_gets_every_count_with_block() {
    assert_nothing_is_lost(&stands_still("block"));
}

#[test]
fn a_receiver_stopped_for_six_seconds_gets_what_is_not_counted_as_dropped_with_drop() {
    let outcome = stands_still("drop");
    let dropped = total(
        &outcome.telemetry,
        "conntally.output.lines_dropped",
        &["output:unixstream", "reason:queue_full"],
    );
    assert!(dropped > 0);
    assert_eq!(outcome.counted.dropped, dropped);
    let arrived = outcome.received.increments();
    assert_eq!(arrived + dropped, outcome.sent * outcome.contexts);
}
