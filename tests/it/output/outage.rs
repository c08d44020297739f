//! An outage of hours, on the paused clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use conntally::config::{self, OnFull};
use conntally::output::backlog::SenderId;
use tokio::time::{resume, sleep, timeout};

use super::{Ending, PATIENCE, Place, QUEUE, Sender, settings};
use crate::support::receiver::{Pace, Receiver};
use crate::support::tally::Tally;

const CONTEXTS: usize = 1_000;
/// Increments of each context, a million in all, and the time between them: five and
/// a half hours together.
const STEPS: usize = 1_000;
const STEP: Duration = Duration::from_secs(20);

/// Steps after which the queue is full and every context in the backlog.
const FULL: usize = 20;

/// A backlog of counts, bytes a context.
const CONTEXT_BYTES: u64 = 512;

#[tokio::test(start_paused = true)]
async fn an_outage_of_hours_costs_no_count_and_no_more_memory_than_one_of_minutes() {
    let place = Place::new();
    let address = place.address("unixstream");
    let sender = Sender::start(&config::Output {
        on_full: OnFull::Merge,
        ..settings(&address.parse().unwrap())
    });
    let lines: Vec<String> = (0..CONTEXTS)
        .map(|context| format!("outage.count:1|c|#context:{context}\n"))
        .collect();
    let lines = lines.concat();
    let counters = Arc::clone(&sender.counters);
    let mut sizes = Vec::new();
    for step in 0..STEPS {
        sender
            .inlet
            .offer_lines(lines.as_bytes(), CONTEXTS as u64, SenderId::of_process(1));
        sleep(STEP).await;
        if step >= FULL {
            sizes.push(counters.backlog_bytes.get());
        }
    }
    assert_eq!(counters.sent.get(), 0);
    assert_eq!(counters.backlog_contexts.get(), CONTEXTS as u64);
    assert!(sizes.iter().all(|&size| size == sizes[0]), "{sizes:?}");
    assert!(
        (1..=CONTEXTS as u64 * CONTEXT_BYTES).contains(&sizes[0]),
        "{}",
        sizes[0]
    );

    resume();
    let mut receiver = Receiver::start_at(&address, &place.dir.path().join("out"), Pace::Full);
    drop(sender.inlet);
    let ending = timeout(PATIENCE, sender.task).await.unwrap().unwrap();
    assert_eq!(ending, Ending::Drained);
    receiver.end();
    let accepted = (STEPS * CONTEXTS) as u64;
    let (sent, merged) = (counters.sent.get(), counters.merged.get());
    assert_eq!(counters.accepted.get(), accepted);
    assert_eq!(counters.dropped.total(), 0);
    assert_eq!(sent + merged, accepted);
    // However long it was, what is left to send is the queue and a line a context.
    let shortest = lines.lines().map(str::len).min().unwrap();
    assert!(
        sent <= (QUEUE.as_usize() / shortest + CONTEXTS) as u64,
        "{sent}"
    );
    let got = Tally::of(receiver.lines());
    assert_eq!(got.lines as u64, sent);
    let whole = lines
        .lines()
        .map(|line| (line.replacen(":1", "", 1), STEPS));
    assert_eq!(got.counts, whole.collect::<BTreeMap<_, _>>());
}
