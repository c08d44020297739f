use std::collections::HashMap;

use proptest::prelude::*;
use tokio::time::{advance, timeout};

use super::*;
use crate::config::Format;
use crate::output::backlog::OWN;
use crate::output::payload::{Delimiter, count_lines};

mod flushing;
mod merging;

const FLUSH: Duration = Duration::from_millis(100);

struct Ends {
    inlet: Inlet,
    outlet: Outlet,
    counters: Arc<OutputCounters>,
}

fn ends(limit: usize, delimiter: Delimiter, capacity: usize) -> Ends {
    ends_in(Format::Dogstatsd, limit, delimiter, capacity)
}

fn ends_in(format: Format, limit: usize, delimiter: Delimiter, capacity: usize) -> Ends {
    ends_of(Settings {
        capacity,
        flush_interval: FLUSH,
        on_full: OnFull::Block,
        encoding: Encoding::new(format, ""),
        ..Settings::of(Shape { limit, delimiter })
    })
}

fn ends_of(settings: Settings) -> Ends {
    let counters = Arc::new(OutputCounters::default());
    let (inlet, outlet) = queue(settings, Arc::clone(&counters));
    Ends {
        inlet: inlet.for_source(LineSource::Listeners),
        outlet,
        counters,
    }
}

/// Sends a chunk's payloads to `to`.
fn take(ends: &mut Ends, mut chunk: Chunk, to: &mut Vec<u8>) {
    while let Some(payload) = chunk.next_payload() {
        to.extend_from_slice(payload);
        // A line that just fits its payload goes without its newline.
        if payload.last() != Some(&b'\n') {
            to.push(b'\n');
        }
        ends.counters.sent.add(chunk.pass_payload().lines);
    }
    ends.outlet.release(chunk);
}

/// Lines in the queue, counted by hand.
fn queued(ends: &Ends) -> u64 {
    let state = ends.outlet.shared.lock();
    let full: u64 = state.full.iter().map(Chunk::lines).sum();
    full + state.tail.lines()
}

/// Whether the future is not ready at once.
async fn pends<T>(future: impl Future<Output = T>) -> bool {
    tokio::select! {
        biased;
        _ = future => false,
        () = std::future::ready(()) => true,
    }
}

#[test]
fn a_queue_needs_no_runtime_to_be_made_and_filled() {
    let ends = ends(64, Delimiter::Datagram, 1024);
    ends.inlet.offer(b"a:1|c\n");
    assert_eq!(queued(&ends), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lone_line_waits_for_company_no_longer_than_the_flush_interval() {
    for delimiter in [
        Delimiter::Datagram,
        Delimiter::LengthPrefix,
        Delimiter::Auto,
        Delimiter::Newline,
    ] {
        let mut ends = ends(64, delimiter, 1024);
        let start = Instant::now();
        ends.inlet.offer(b"a:1|c\n");
        let chunk = ends.outlet.recv().await.unwrap();
        assert_eq!(chunk.lines(), 1);
        assert!(start.elapsed() >= FLUSH && start.elapsed() <= FLUSH + Duration::from_millis(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_payload_goes_at_once_and_the_datagram_behind_it_keeps_its_own_time() {
    let mut ends = ends(8, Delimiter::Datagram, 1024);
    ends.inlet.offer(b"a:1|c\n");
    advance(FLUSH / 2).await;
    let begun = Instant::now();
    ends.inlet.offer(b"b:1|c\n");
    let first = ends.outlet.recv().await.unwrap();
    assert_eq!(first.next_payload(), Some(&b"a:1|c\n"[..]));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let second = ends.outlet.recv().await.unwrap();
    assert_eq!(second.next_payload(), Some(&b"b:1|c\n"[..]));
    assert!(begun.elapsed() >= FLUSH);
}

#[tokio::test(start_paused = true)]
async fn a_stream_takes_what_is_under_construction_along() {
    let mut ends = ends(8, Delimiter::LengthPrefix, 1024);
    ends.inlet.offer(b"a:1|c\n");
    ends.inlet.offer(b"b:1|c\n");
    assert_eq!(ends.outlet.recv().await.unwrap().lines(), 2);
}

#[tokio::test(start_paused = true)]
async fn of_lines_too_long_for_a_payload_the_log_tells_once_a_minute_how_many() {
    let ends = ends(8, Delimiter::Datagram, 1024);
    ends.inlet.offer(b"too.long:1|c\n");
    let minute = Duration::from_secs(60);
    advance(minute / 2).await;
    let three = b"too.long:2|c\na:1|c\ntoo.long:3|c\ntoo.long:4|c\n";
    ends.inlet.offer_lines(three, 4, OWN);
    assert_eq!(ends.counters.dropped.get(LineDrop::Oversized), 4);
    let log = &ends.outlet.shared.oversized_log;
    assert_eq!(log.permit_of(0), None);
    advance(minute / 2).await;
    assert_eq!(log.permit_of(0), Some(3));
}

#[tokio::test(start_paused = true)]
async fn lines_too_long_for_a_payload_leave_no_timer_behind() {
    // One line fills the chunk; the next, too long, pushes it out and leaves the tail empty.
    let limit = 64 << 10;
    let mut ends = ends(limit, Delimiter::Newline, 1 << 20);
    let whole = [vec![b'x'; limit - 1], b"\n".to_vec()].concat();
    let large = [vec![b'x'; limit], b"\n".to_vec()].concat();
    ends.inlet.offer(&whole);
    ends.inlet.offer(&large);
    ends.inlet.offer(&large);
    assert_eq!(ends.counters.dropped.get(LineDrop::Oversized), 2);
    assert_eq!(ends.outlet.recv().await.unwrap().lines(), 1);
    assert_eq!(ends.outlet.shared.lock().open_since, None);
    assert!(timeout(10 * FLUSH, ends.outlet.recv()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_receiver_gets_the_rest_and_then_the_end_when_every_sender_is_gone() {
    let mut ends = ends(64, Delimiter::Datagram, 1024);
    let second = ends.inlet.for_source(LineSource::Collector);
    let Ends { inlet, outlet, .. } = &mut ends;
    inlet.offer(b"a:1|c\n");
    second.offer(b"b:1|c\n");
    drop(second);
    drop(std::mem::replace(inlet, Ends::unused()));
    let start = Instant::now();
    assert_eq!(outlet.recv().await.unwrap().lines(), 2);
    assert!(outlet.recv().await.is_none());
    assert_eq!(start.elapsed(), Duration::ZERO);
}

impl Ends {
    fn unused() -> Inlet {
        ends(1, Delimiter::Newline, 1).inlet
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiting_receiver_wakes_when_the_last_sender_goes() {
    let Ends {
        inlet, mut outlet, ..
    } = ends(64, Delimiter::Datagram, 1024);
    let end = tokio::spawn(async move { outlet.recv().await.is_none() });
    tokio::task::yield_now().await;
    drop(inlet);
    assert!(end.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn blocked_senders_go_on_in_the_order_they_came() {
    let ends = ends(64, Delimiter::Newline, 64);
    let inlet = Arc::new(ends.inlet);
    let mut outlet = ends.outlet;
    let held = inlet.try_reserve(64).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut senders = Vec::new();
    // The first asks for the most: those behind it must not overtake.
    for (sender, bytes) in [64, 8, 48, 8].into_iter().enumerate() {
        let (inlet, order) = (Arc::clone(&inlet), Arc::clone(&order));
        senders.push(tokio::spawn(async move {
            let mut room = inlet.reserve(bytes).await.unwrap();
            order.lock().unwrap().push(sender);
            room.push(&[vec![b'x'; bytes - 1], b"\n".to_vec()].concat(), 1, OWN);
        }));
        tokio::task::yield_now().await;
    }
    assert!(inlet.try_reserve(1).is_none());
    drop(held);
    let mut lines = 0;
    while lines < 4 {
        let chunk = outlet.recv().await.unwrap();
        lines += chunk.lines();
        outlet.release(chunk);
    }
    for sender in senders {
        sender.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
    assert_eq!(inlet.shared.room.available_permits(), 64);
}

#[tokio::test]
async fn more_than_the_whole_queue_is_granted_as_the_whole_queue() {
    let ends = ends(64, Delimiter::Newline, 64);
    let room = ends.inlet.reserve(1 << 30).await.unwrap();
    assert_eq!(room.bytes(), 64);
}

#[tokio::test]
async fn a_queue_kept_full_by_senders_still_takes_the_agents_own_lines_up_to_a_quarter() {
    let mut ends = ends(256, Delimiter::Newline, 64);
    let own = ends.inlet.for_source(LineSource::Collector);
    let mut greedy = ends.inlet.try_reserve(64).unwrap();
    greedy.push(&[vec![b'x'; 63], b"\n".to_vec()].concat(), 1, OWN);
    ends.inlet.offer(b"b:1|c\n");
    assert_eq!(ends.counters.dropped.get(LineDrop::QueueFull), 1);
    own.offer(b"c:1|c\n");
    own.offer(b"d:1|c\n");
    assert_eq!(ends.counters.dropped.get(LineDrop::QueueFull), 1);
    assert_eq!(ends.counters.backlog_contexts.get(), 0);
    // Beyond that they are merged.
    own.offer(b"e:1|c\n");
    own.offer(b"e:1|c\n");
    assert_eq!(ends.counters.dropped.total(), 1);
    assert_eq!(ends.counters.backlog_contexts.get(), 1);
    drop(greedy);
    let shared = Arc::clone(&ends.inlet.shared);
    ends.inlet = Ends::unused();
    drop(own);
    let mut sent = Vec::new();
    while let Some(chunk) = ends.outlet.recv().await {
        take(&mut ends, chunk, &mut sent);
    }
    assert!(sent.ends_with(b"c:1|c\nd:1|c\ne:2|c\n"));
    assert_eq!(
        (ends.counters.sent.get(), ends.counters.merged.get()),
        (4, 1)
    );
    assert_eq!(shared.room.available_permits(), 64);
    assert_eq!(shared.lock().debt, 0);
}

#[test]
fn while_the_output_takes_what_comes_senders_fill_only_what_keeps_it_busy() {
    const CAPACITY: usize = 4 * STEADY_BYTES;
    let mut ends = ends(64, Delimiter::Newline, CAPACITY);
    let free = |ends: &Ends| ends.inlet.shared.room.available_permits();
    ends.outlet.narrow();
    ends.outlet.narrow();
    assert_eq!(free(&ends), STEADY_BYTES);
    ends.outlet.widen();
    ends.outlet.widen();
    assert_eq!(free(&ends), CAPACITY);

    // What is queued already stays; its room is kept back as it comes free.
    let line = b"a:1|c\n";
    let lines = CAPACITY / line.len();
    for _ in 0..lines {
        ends.inlet
            .try_reserve(line.len())
            .unwrap()
            .push(line, 1, OWN);
    }
    ends.outlet.narrow();
    assert_eq!(free(&ends), 0);
    let mut out = Vec::new();
    while let Some(chunk) = ends.outlet.drain() {
        take(&mut ends, chunk, &mut out);
        assert!(free(&ends) <= STEADY_BYTES);
    }
    assert_eq!(count_lines(&out), lines as u64);
    assert_eq!(free(&ends), STEADY_BYTES);
    ends.outlet.widen();
    assert_eq!(free(&ends), CAPACITY);
}

#[test]
fn what_prefixes_and_encodings_add_is_paid_for_from_what_comes_free_next() {
    let mut ends = ends_in(Format::Influx, 256, Delimiter::LengthPrefix, 64);
    let mut room = ends.inlet.try_reserve(64).unwrap();
    // Ten lines of 11 bytes each where 9 came in, and a prefix.
    room.push(b"a:1:2:3:4:5:6:7:8:9:0|c|#x:yyyy\n", 1, OWN);
    drop(room);
    let debt = ends.outlet.shared.lock().debt;
    assert!(debt > 0);
    assert_eq!(ends.inlet.shared.room.available_permits(), 0);
    let chunk = ends.outlet.drain().unwrap();
    assert_eq!(chunk.bytes(), 64 + debt);
    assert_eq!(chunk.lines(), 10);
    assert_eq!(ends.counters.accepted.get(), 10);
    ends.outlet.release(chunk);
    assert_eq!(ends.inlet.shared.room.available_permits(), 64);
    assert_eq!(ends.outlet.shared.lock().debt, 0);
}

#[tokio::test]
async fn after_the_close_every_line_is_counted_as_dropped_for_its_reason() {
    let mut ends = ends(64, Delimiter::Datagram, 64);
    let mut room = ends.inlet.try_reserve(64).unwrap();
    room.push(b"a:1|c\n", 1, OWN);
    assert!(pends(ends.inlet.reserve(64)).await);
    assert_eq!(ends.outlet.close(LineDrop::Closed), 1);
    room.push(b"b:1|c\nc:1|c\n", 2, OWN);
    ends.inlet.offer(b"d:1|c\n");
    assert!(ends.inlet.reserve(1).await.is_none());
    assert_eq!(ends.counters.dropped.get(LineDrop::Closed), 4);
    assert_eq!(ends.counters.held(), 0);
    drop(ends.outlet);
    assert_eq!(ends.counters.dropped.total(), 4);
}

#[tokio::test]
async fn senders_that_wait_are_told_when_the_output_goes() {
    let Ends { inlet, outlet, .. } = ends(64, Delimiter::Datagram, 8);
    let _held = inlet.try_reserve(8).unwrap();
    let waiting = inlet.reserve(8);
    let (outcome, ()) = tokio::join!(waiting, async move { drop(outlet) });
    assert!(outcome.is_none());
}

/// One step of a random run.
#[derive(Clone, Debug)]
enum Step {
    /// Lines of these lengths, by one reservation for this many bytes.
    Push(Vec<usize>, usize),
    /// The collector's line.
    Offer(usize),
    /// The receiver waits this many milliseconds at most.
    Recv(u64),
    /// The oldest chunk out is sent.
    Release,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (prop::collection::vec(1_usize..40, 1..6), 0_usize..200)
            .prop_map(|(lines, bytes)| Step::Push(lines, bytes)),
        (1_usize..40).prop_map(Step::Offer),
        (0_u64..150).prop_map(Step::Recv),
        Just(Step::Release),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    /// Whatever the order of sending, receiving and releasing: accepted = sent +
    /// dropped + held at each step, lines come out in order, and once all is
    /// out, all the room is back.
    #[test]
    fn prop_room_and_counts_survive_any_interleaving(
        steps in steps(),
        limit in 8_usize..64,
        capacity in 16_usize..512,
        delimiter in prop::sample::select(vec![
            Delimiter::Datagram, Delimiter::LengthPrefix, Delimiter::Auto, Delimiter::Newline,
        ]),
        on_full in prop::sample::select(vec![OnFull::Merge, OnFull::Block, OnFull::Drop]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut ends = ends_of(Settings {
                capacity,
                flush_interval: FLUSH,
                on_full,
                ..Settings::of(Shape { limit, delimiter })
            });
            let own = ends.inlet.for_source(LineSource::Collector);
            let mut out: VecDeque<Chunk> = VecDeque::new();
            let (mut seen, mut serial) = (Vec::new(), 0_u64);
            let mut line = |whose: &str, length: usize| {
                serial += 1;
                format!("{whose}{serial}:{}\n", "x".repeat(length))
            };
            for step in steps {
                match step {
                    Step::Push(lengths, bytes) => {
                        let lines: String = lengths.iter().map(|&length| line("", length)).collect();
                        match ends.inlet.try_reserve(bytes) {
                            Some(mut room) => room.push(lines.as_bytes(), lengths.len() as u64, OWN),
                            None => ends.inlet.offer_lines(lines.as_bytes(), lengths.len() as u64, OWN),
                        }
                    }
                    Step::Offer(length) => own.offer(line("own.", length).as_bytes()),
                    Step::Recv(millis) => {
                        let wait = Duration::from_millis(millis);
                        let waiting = queued(&ends);
                        match timeout(wait, ends.outlet.recv()).await {
                            Ok(chunk) => out.extend(chunk),
                            Err(_) => prop_assert!(waiting == 0 || wait <= FLUSH),
                        }
                    }
                    Step::Release => if let Some(chunk) = out.pop_front() {
                        take(&mut ends, chunk, &mut seen);
                    },
                }
                let merging = ends.outlet.shared.lock().merging.backlog.len();
                let held = queued(&ends) + merging + out.iter().map(Chunk::lines).sum::<u64>();
                prop_assert_eq!(ends.counters.held(), held);
            }
            let inlet = std::mem::replace(&mut ends.inlet, Ends::unused());
            drop(own);
            let shared = Arc::clone(&inlet.shared);
            drop(inlet);
            while let Some(chunk) = ends.outlet.recv().await {
                out.push_back(chunk);
            }
            while let Some(chunk) = out.pop_front() {
                take(&mut ends, chunk, &mut seen);
            }
            prop_assert_eq!(ends.counters.held(), 0);
            prop_assert_eq!(count_lines(&seen), ends.counters.sent.get());
            prop_assert_eq!(shared.room.available_permits(), capacity);
            prop_assert_eq!(shared.lock().debt, 0);
            let serials: Vec<&str> = seen
                .split(|&byte| byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| str::from_utf8(line).unwrap().split(':').next().unwrap())
                .collect();
            let number = |serial: &&str| -> Option<u64> { serial.parse().ok() };
            let own = |serial: &&str| -> Option<u64> { serial.strip_prefix("own.")?.parse().ok() };
            prop_assert!(serials.iter().filter_map(number).is_sorted_by(|a, b| a < b));
            prop_assert!(serials.iter().filter_map(own).is_sorted_by(|a, b| a < b));
            if on_full == OnFull::Merge {
                let any = |serial: &&str| number(serial).or_else(|| own(serial));
                prop_assert!(serials.iter().filter_map(any).is_sorted_by(|a, b| a < b));
            }
            Ok(())
        })?;
    }
}

#[test]
fn many_threads_push_and_nothing_is_lost_or_torn() {
    const SENDERS: u64 = 4;
    const LINES: u64 = 5_000;
    let Ends {
        inlet,
        mut outlet,
        counters,
    } = ends(256, Delimiter::Datagram, 4096);
    let receiver = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let mut next: HashMap<u64, u64> = HashMap::new();
            while let Some(mut chunk) = outlet.recv().await {
                while let Some(payload) = chunk.next_payload() {
                    for line in str::from_utf8(payload).unwrap().lines() {
                        let (sender, serial) = line.split_once(':').unwrap();
                        let next = next.entry(sender.parse().unwrap()).or_default();
                        assert_eq!(serial.parse::<u64>().unwrap(), *next);
                        *next += 1;
                    }
                    chunk.pass_payload();
                }
                outlet.release(chunk);
            }
            assert_eq!(outlet.shared.room.available_permits(), 4096);
            next
        })
    });
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let inlet = inlet.for_source(LineSource::Listeners);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                runtime.block_on(async move {
                    for serial in 0..LINES {
                        let line = format!("{sender}:{serial}\n");
                        let mut room = inlet.reserve(line.len()).await.unwrap();
                        room.push(line.as_bytes(), 1, OWN);
                    }
                });
            })
        })
        .collect();
    drop(inlet);
    for sender in senders {
        sender.join().unwrap();
    }
    let counts = receiver.join().unwrap();
    assert_eq!(counts.len() as u64, SENDERS);
    assert!(counts.values().all(|&count| count == LINES));
    assert_eq!(counters.accepted.get(), SENDERS * LINES);
}
