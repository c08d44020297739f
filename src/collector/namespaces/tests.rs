//! When what the collectors answer is told.

use std::sync::mpsc as thread_channel;

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::mpsc;
use tokio::time::advance;

use super::*;
use crate::collector::Answer;
use crate::collector::worker::Request;
use crate::netns::Netns;
use crate::report::{Source, TableSize};

/// The thread's side of a collector, played by the test.
struct Thread {
    asked: thread_channel::Receiver<Request>,
    answers: mpsc::Sender<Option<Answer>>,
    counters: Arc<CollectorCounters>,
}

impl Thread {
    /// Answers what it was asked for.
    fn answer(&self, entries: u64) {
        self.asked.try_recv().unwrap();
        let snapshot = Snapshot {
            table: Some(TableSize {
                entries,
                limit: None,
            }),
            ..Snapshot::default()
        };
        let source = Source::Conntrack;
        let answer = Answer { source, snapshot };
        self.answers.try_send(Some(answer)).unwrap();
    }
}

fn seat(name: Option<&str>) -> (Seat, Thread) {
    let (requests, asked) = thread_channel::sync_channel(1);
    let (answer, answers) = mpsc::channel(1);
    let collector = Collector {
        leaves: Arc::default(),
        thread: None,
        requests,
        wake: Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap()),
        answers,
        busy: false,
        is_gone: false,
    };
    let counters = Arc::<CollectorCounters>::default();
    let thread = Thread {
        asked,
        answers: answer,
        counters: Arc::clone(&counters),
    };
    let netns = name.map(|name| name.parse::<Netns>().unwrap());
    let identity = netns.as_ref().and_then(Netns::identity);
    (Seat::new(netns, identity, counters, collector), thread)
}

/// The daemon's own collector and one in a namespace at `path`.
fn two(path: &str) -> (Collectors, [Thread; 2]) {
    let (own, first) = seat(None);
    let (other, second) = seat(Some(path));
    let config = Arc::new(Config::default());
    (Collectors::of(config, vec![own, other]), [first, second])
}

/// A file stands for a namespace: it has an identity.
fn file() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blue");
    std::fs::write(&path, "").unwrap();
    let path = path.to_str().unwrap().to_owned();
    (directory, path)
}

/// What is due now: of each namespace its name and the table's entries.
async fn due(collectors: &mut Collectors) -> Option<Vec<(String, u64)>> {
    let told = timeout(Duration::from_millis(1), collectors.report()).await;
    told.ok().map(|snapshots| {
        let one = |snapshot: &Snapshot| {
            let name = snapshot.netns.as_deref().unwrap_or("own").to_owned();
            (name, snapshot.table.map_or(0, |table| table.entries))
        };
        snapshots.iter().map(one).collect()
    })
}

fn told(of: &[(&str, u64)]) -> Vec<(String, u64)> {
    let one = |&(name, entries): &(&str, u64)| (name.to_owned(), entries);
    of.iter().map(one).collect()
}

#[tokio::test(start_paused = true)]
async fn a_report_is_due_once_all_have_answered() {
    let (_directory, path) = file();
    let (mut collectors, [own, blue]) = two(&path);
    assert_eq!(due(&mut collectors).await, None);
    collectors.tick();
    blue.answer(2);
    assert_eq!(due(&mut collectors).await, None);
    own.answer(1);
    let both = Some(told(&[("blue", 2), ("own", 1)]));
    assert_eq!(due(&mut collectors).await, both);
    assert_eq!(due(&mut collectors).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_told_with_the_next_report_and_holds_up_no_other() {
    let (_directory, path) = file();
    let (mut collectors, [own, blue]) = two(&path);
    collectors.tick();
    own.answer(1);
    assert_eq!(due(&mut collectors).await, None);
    // It is waited for until the tick is over, and no longer.
    collectors.tick();
    assert_eq!(due(&mut collectors).await, Some(told(&[("own", 1)])));
    assert_eq!(blue.counters.skipped.get(), 1);
    own.answer(2);
    assert_eq!(due(&mut collectors).await, Some(told(&[("own", 2)])));
    blue.answer(3);
    assert_eq!(due(&mut collectors).await, None);
    // From now on the other is not kept waiting.
    collectors.tick();
    own.answer(4);
    assert_eq!(
        due(&mut collectors).await,
        Some(told(&[("blue", 3), ("own", 4)]))
    );
    // Until it is in time again.
    blue.answer(5);
    assert_eq!(due(&mut collectors).await, None);
    collectors.tick();
    own.answer(6);
    assert_eq!(due(&mut collectors).await, None);
    blue.answer(7);
    assert_eq!(
        due(&mut collectors).await,
        Some(told(&[("blue", 5), ("own", 6)]))
    );
    assert_eq!(due(&mut collectors).await, Some(told(&[("blue", 7)])));
}

#[tokio::test(start_paused = true)]
async fn a_tick_without_answers_is_reported_all_the_same() {
    let (own, thread) = seat(None);
    let mut collectors = Collectors::of(Arc::new(Config::default()), vec![own]);
    collectors.tick();
    assert_eq!(due(&mut collectors).await, None);
    for _ in 0..3 {
        collectors.tick();
        assert_eq!(due(&mut collectors).await, Some(told(&[])));
        assert_eq!(due(&mut collectors).await, None);
    }
    assert_eq!(thread.counters.skipped.get(), 3);
    let mut none = Collectors::of(Arc::new(Config::default()), Vec::new());
    none.tick();
    assert_eq!(due(&mut none).await, Some(told(&[])));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_gone_is_asked_a_last_time_and_told_as_zero_for_two_minutes() {
    let (_directory, path) = file();
    let (mut collectors, [own, blue]) = two(&path);
    blue.counters.flows.set(5);
    collectors.tick();
    own.answer(1);
    blue.answer(2);
    due(&mut collectors).await.unwrap();

    std::fs::remove_file(&path).unwrap();
    collectors.tick();
    own.answer(1);
    blue.answer(2);
    assert_eq!(
        due(&mut collectors).await,
        Some(told(&[("own", 1), ("blue", 0)]))
    );
    let gone = Err(thread_channel::TryRecvError::Disconnected);
    assert_eq!(blue.asked.try_recv().map(|_| ()), gone);
    let counters = &blue.counters;
    assert_eq!((counters.flows.get(), counters.source.get()), (0, None));
    assert_eq!(counters.flows_forgotten.get(), 5);

    let mut zeroes = 0;
    for _ in 0..30 {
        advance(Duration::from_secs(10)).await;
        collectors.tick();
        own.answer(1);
        let told = due(&mut collectors).await.unwrap();
        zeroes += told.iter().filter(|(name, _)| name == "blue").count();
    }
    assert_eq!(zeroes, 13);
}

#[tokio::test(start_paused = true)]
async fn the_last_report_waits_for_all_and_only_so_long() {
    for (both, told) in [(true, vec![2, 3]), (false, vec![2])] {
        let (_directory, path) = file();
        let (mut collectors, [own, blue]) = two(&path);
        let last =
            tokio::spawn(async move { collectors.last(Duration::from_secs(2), false).await });
        tokio::task::yield_now().await;
        own.answer(2);
        if both {
            blue.answer(3);
        }
        let reports = last.await.unwrap();
        let entries = |snapshot: &Snapshot| snapshot.table.unwrap().entries;
        let reports: Vec<Vec<_>> = reports
            .iter()
            .map(|snapshots| snapshots.iter().map(entries).collect())
            .collect();
        assert_eq!(reports, [told]);
    }
    let mut none = Collectors::of(Arc::new(Config::default()), Vec::new());
    let reports = none.last(Duration::from_secs(2), false).await;
    assert_eq!((reports.len(), reports[0].len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_and_the_last_one_are_told_one_after_the_other() {
    let (own, thread) = seat(None);
    let mut collectors = Collectors::of(Arc::new(Config::default()), vec![own]);
    collectors.tick();
    collectors.tick();
    thread.answer(1);
    assert_eq!(due(&mut collectors).await, Some(told(&[])));
    assert_eq!(due(&mut collectors).await, None);
    let last = tokio::spawn(async move { collectors.last(Duration::from_secs(2), false).await });
    tokio::task::yield_now().await;
    thread.answer(2);
    assert_eq!(last.await.unwrap().len(), 2);
}
