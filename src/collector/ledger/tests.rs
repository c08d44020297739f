use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::collector::Count;
use crate::collector::ending::Story;
use crate::config::Config;
use crate::conntrack::{Event, Happening};
use crate::flow::{
    ConnectionState, Details, Failure, Flow, Protocol, State, Status, TcpState, Traffic, Tuple,
};
use crate::telemetry::CollectorCounters;

const ESTABLISHED: State = State::Tcp(TcpState::Established);
const SYN_SENT: State = State::Tcp(TcpState::SynSent);
const CLOSE: State = State::Tcp(TcpState::Close);
const TIME_WAIT: State = State::Tcp(TcpState::TimeWait);

const SECOND: u64 = 1_000_000_000;

fn flow(number: u8, state: State) -> Flow {
    let (src, dst): (IpAddr, IpAddr) = (
        Ipv4Addr::new(10, 9, 0, number).into(),
        Ipv4Addr::new(10, 8, 0, number % 3).into(),
    );
    Flow {
        original: Tuple {
            src,
            dst,
            src_port: 40_000,
            dst_port: 443,
        },
        reply: Tuple {
            src: dst,
            dst: src,
            src_port: 443,
            dst_port: 40_000,
        },
        protocol: Protocol::Tcp,
        state,
        status: status(state),
        zone: 0,
        mark: 0,
        beginning: Beginning::Seen,
    }
}

fn status(state: State) -> Status {
    match state.general() {
        ConnectionState::Opening => Status::default(),
        _ => Status(Status::SEEN_REPLY | Status::ASSURED),
    }
}

fn entry(number: u8, state: State) -> Entry {
    Entry {
        flow: flow(number, state),
        details: Details::default(),
    }
}

fn event(happening: Happening, number: u8, state: State) -> Event {
    Event {
        happening,
        entry: entry(number, state),
        state: Some(state),
        status: Some(status(state)),
    }
}

/// A ledger, with what it writes to.
struct Bench<D = ()> {
    ledger: Ledger<D>,
    count: Count,
    counters: CollectorCounters,
    now: u64,
}

impl<D: Detail> Bench<D> {
    /// One that knows an empty table and hears everything.
    fn listening() -> Self {
        let mut bench = Self::deaf();
        bench.dump([]);
        bench.ledger.hear(Hearing::Everything);
        bench
    }

    fn deaf() -> Self {
        Self {
            ledger: Ledger::new(usize::MAX, Timeouts::default(), KeyHasher::default()),
            count: Count::new(&Config::default()),
            counters: CollectorCounters::default(),
            now: 1000 * SECOND,
        }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Ledger<D>, u64, &mut Books<'_>) -> T) -> T {
        let mut books = Books {
            count: &mut self.count,
            counters: &self.counters,
        };
        act(&mut self.ledger, self.now, &mut books)
    }

    fn hear(&mut self, happening: Happening, number: u8, state: State) {
        let event = event(happening, number, state);
        self.with(|ledger, now, books| ledger.event(&event, now, books));
    }

    fn show(&mut self, number: u8, state: State) {
        let entry = entry(number, state);
        self.with(|ledger, now, books| ledger.dumped(&entry, now, books));
    }

    fn finish(&mut self) {
        self.with(Ledger::finish);
    }

    fn dump(&mut self, flows: impl IntoIterator<Item = (u8, State)>) {
        self.ledger.begin();
        for (number, state) in flows {
            self.show(number, state);
        }
        self.finish();
    }

    fn totals(&self) -> [u64; 5] {
        let Totals {
            found,
            opened,
            picked_up,
            closed,
            failed,
            forgotten: _,
        } = self.ledger.totals();
        [found, opened, picked_up, closed, failed]
    }

    /// Flows by state, as the tally has them.
    fn states(&self) -> Vec<(&'static str, u64)> {
        let mut sums = std::collections::BTreeMap::new();
        for (_, state, count) in self.count.tally.series_counts() {
            *sums.entry(state.as_str()).or_insert(0) += count;
        }
        sums.into_iter().collect()
    }

    fn activity(&self) -> crate::tally::Activity {
        let mut sum = crate::tally::Activity::default();
        for (_, activity) in self.count.tally.activities() {
            sum.add(activity);
        }
        sum
    }

    fn failed(&self, failure: Failure) -> u64 {
        self.activity().failed[failure as usize]
    }

    /// That what went in is what came out and what is there.
    fn balance(&self) {
        let [found, opened, picked_up, closed, failed] = self.totals();
        let (now, _) = self.ledger.size();
        assert_eq!(found + opened + picked_up, closed + failed + now as u64);
    }
}

use Happening::{Destroy, New, Update};

#[test]
fn a_connection_is_opened_turns_and_is_closed() {
    let mut bench: Bench = Bench::listening();
    bench.hear(New, 1, SYN_SENT);
    assert_eq!(bench.states(), [("opening", 1)]);
    bench.hear(Update, 1, ESTABLISHED);
    assert_eq!(bench.states(), [("open", 1)]);
    bench.hear(Update, 1, TIME_WAIT);
    bench.hear(Destroy, 1, TIME_WAIT);
    assert_eq!(bench.states(), []);
    assert_eq!(bench.totals(), [0, 1, 0, 1, 0]);
    assert_eq!((bench.activity().opened, bench.activity().closed), (1, 1));
    assert_eq!(bench.counters.corrections.total(), 0);
}

#[test]
fn a_reset_before_and_after_a_goodbye_and_to_the_first_packet_are_told_apart() {
    let mut bench: Bench = Bench::listening();
    for (number, passes) in [
        (1, &[ESTABLISHED, CLOSE][..]),
        (2, &[ESTABLISHED, State::Tcp(TcpState::FinWait), CLOSE]),
    ] {
        bench.hear(New, number, SYN_SENT);
        for &state in passes {
            bench.hear(Update, number, state);
        }
        bench.hear(Destroy, number, CLOSE);
    }
    // Refused: the entry never saw a reply.
    bench.hear(New, 3, SYN_SENT);
    let mut refused = event(Destroy, 3, CLOSE);
    refused.status = Some(Status::default());
    bench.with(|ledger, now, books| ledger.event(&refused, now, books));
    bench.hear(New, 4, SYN_SENT);
    bench.hear(Destroy, 4, SYN_SENT);
    assert_eq!(bench.activity().closed, 1);
    assert_eq!(bench.failed(Failure::Reset), 1);
    assert_eq!(bench.failed(Failure::Refused), 1);
    assert_eq!(bench.failed(Failure::Timeout), 1);
    bench.balance();
}

#[test]
fn an_update_that_does_not_tell_the_state_changes_none() {
    let mut bench: Bench = Bench::listening();
    bench.hear(New, 1, SYN_SENT);
    bench.hear(Update, 1, ESTABLISHED);
    let mut silent = event(Update, 1, SYN_SENT);
    silent.state = None;
    bench.with(|ledger, now, books| ledger.event(&silent, now, books));
    assert_eq!(bench.states(), [("open", 1)]);
    // Nor does an end without it, as before Linux 5.11.
    let mut end = event(Destroy, 1, SYN_SENT);
    end.state = None;
    bench.with(|ledger, now, books| ledger.event(&end, now, books));
    assert_eq!(bench.activity().closed, 1);
}

#[test]
fn flows_of_the_start_are_neither_opened_nor_picked_up_and_their_silent_end_is_found() {
    let mut bench: Bench = Bench::deaf();
    bench.dump([(1, ESTABLISHED), (2, ESTABLISHED)]);
    bench.ledger.hear(Hearing::Everything);
    assert_eq!(bench.totals(), [2, 0, 0, 0, 0]);
    bench.dump([(2, ESTABLISHED)]);
    assert_eq!(bench.totals(), [2, 0, 0, 1, 0]);
    let corrections = &bench.counters.corrections;
    assert_eq!(corrections.get(Correction::MuteEnded), 1);
    assert_eq!(corrections.total(), 1);
    bench.balance();
}

#[test]
fn a_flow_that_dump_and_event_both_tell_of_is_opened_once() {
    let mut bench: Bench = Bench::listening();
    bench.ledger.begin();
    bench.show(1, ESTABLISHED);
    bench.hear(New, 1, SYN_SENT);
    // The dump was newer: the state does not go back.
    assert_eq!(bench.states(), [("open", 1)]);
    bench.hear(New, 2, SYN_SENT);
    bench.show(2, SYN_SENT);
    bench.finish();
    assert_eq!(bench.totals(), [0, 2, 0, 0, 0]);
    assert_eq!(bench.counters.corrections.total(), 0);
}

#[test]
fn a_dump_that_still_shows_a_flow_that_ended_does_not_bring_it_back() {
    let mut bench: Bench = Bench::listening();
    bench.hear(New, 1, SYN_SENT);
    bench.hear(Update, 1, ESTABLISHED);
    bench.ledger.begin();
    bench.hear(Destroy, 1, ESTABLISHED);
    bench.show(1, ESTABLISHED);
    // One that was never seen either.
    bench.hear(New, 2, SYN_SENT);
    bench.hear(Destroy, 2, CLOSE);
    bench.show(2, SYN_SENT);
    bench.finish();
    assert_eq!(bench.ledger.size().0, 0);
    assert_eq!(bench.totals(), [0, 2, 0, 1, 1]);
    assert_eq!(bench.counters.corrections.total(), 0);
}

#[test]
fn where_no_update_comes_a_dump_tells_the_state_of_a_flow_that_began_meanwhile() {
    let mut bench: Bench = Bench::listening();
    bench.ledger.hear(Hearing::Ends);
    bench.ledger.begin();
    bench.hear(New, 1, SYN_SENT);
    bench.hear(New, 2, SYN_SENT);
    bench.show(1, ESTABLISHED);
    // What went before by this name is not what the dump may still show.
    bench.hear(Destroy, 2, CLOSE);
    bench.hear(New, 2, SYN_SENT);
    bench.show(2, ESTABLISHED);
    bench.finish();
    assert_eq!(bench.states(), [("open", 1), ("opening", 1)]);
    assert_eq!(bench.totals(), [0, 3, 0, 0, 1]);
    assert_eq!(bench.counters.corrections.total(), 0);
    bench.dump([(1, ESTABLISHED), (2, ESTABLISHED)]);
    assert_eq!(bench.states(), [("open", 2)]);
}

#[test]
fn the_same_tuple_again_during_a_dump_is_another_connection() {
    let mut bench: Bench = Bench::listening();
    bench.hear(New, 1, SYN_SENT);
    bench.hear(Update, 1, TIME_WAIT);
    bench.ledger.begin();
    bench.hear(Destroy, 1, TIME_WAIT);
    bench.hear(New, 1, SYN_SENT);
    bench.show(1, TIME_WAIT);
    bench.finish();
    assert_eq!(bench.states(), [("opening", 1)]);
    assert_eq!(bench.totals(), [0, 2, 0, 1, 0]);
}

#[test]
fn what_events_did_not_tell_is_corrected_and_never_counted_twice() {
    let mut bench: Bench = Bench::listening();
    // The beginning was lost.
    bench.dump([(1, ESTABLISHED)]);
    assert_eq!(bench.totals(), [0, 1, 0, 0, 0]);
    bench.hear(Destroy, 1, TIME_WAIT);
    // The end was lost, and the tuple is used again.
    bench.hear(New, 2, SYN_SENT);
    bench.hear(New, 2, SYN_SENT);
    // Both were, but for the end.
    bench.hear(Destroy, 3, TIME_WAIT);
    // A change of state was lost.
    bench.hear(New, 4, SYN_SENT);
    bench.dump([(2, SYN_SENT), (4, ESTABLISHED)]);
    assert_eq!(bench.states(), [("open", 1), ("opening", 1)]);
    let corrections = &bench.counters.corrections;
    assert_eq!(corrections.get(Correction::MissedNew), 1);
    assert_eq!(corrections.get(Correction::MissedDestroy), 1);
    assert_eq!(corrections.get(Correction::UnknownDestroy), 1);
    assert_eq!(corrections.get(Correction::State), 1);
    assert_eq!(bench.totals(), [0, 5, 0, 2, 1]);
    bench.balance();
}

#[test]
fn a_flow_picked_up_in_mid_stream_is_not_opened() {
    let mut bench: Bench = Bench::listening();
    let mut late = event(New, 1, ESTABLISHED);
    late.entry.flow.beginning = Beginning::Missed;
    bench.with(|ledger, now, books| ledger.event(&late, now, books));
    bench.hear(Destroy, 1, ESTABLISHED);
    assert_eq!(bench.totals(), [0, 0, 1, 1, 0]);
    assert_eq!(bench.activity().opened, 0);
}

#[test]
fn without_events_flows_begin_and_end_by_difference_and_nothing_is_a_correction() {
    let mut bench: Bench = Bench::deaf();
    bench.dump([(1, ESTABLISHED)]);
    bench.dump([(1, TIME_WAIT), (2, SYN_SENT)]);
    bench.dump([]);
    assert_eq!(bench.totals(), [1, 1, 0, 1, 1]);
    assert_eq!(bench.counters.corrections.total(), 0);
    assert_eq!(bench.failed(Failure::Timeout), 1);
}

#[test]
fn a_dump_that_fails_ends_no_flow() {
    let mut bench: Bench = Bench::listening();
    bench.hear(New, 1, SYN_SENT);
    bench.ledger.begin();
    bench.show(2, ESTABLISHED);
    bench.ledger.abandon();
    assert_eq!(bench.ledger.size().0, 2);
    bench.dump([(1, SYN_SENT), (2, ESTABLISHED)]);
    assert_eq!(bench.totals(), [0, 2, 0, 0, 0]);
    bench.balance();
}

#[test]
fn no_more_flows_are_followed_than_are_allowed() {
    let mut bench: Bench = Bench::listening();
    bench.ledger.max_flows = 2;
    for number in 0..5 {
        bench.hear(New, number, SYN_SENT);
    }
    assert_eq!(bench.ledger.size().0, 2);
    assert!(bench.ledger.is_overfull());
}

#[test]
fn a_connection_lasts_from_its_first_packet_to_the_last_before_its_entry_waits() {
    let mut bench: Bench<Story> = Bench::listening();
    bench.hear(New, 1, SYN_SENT);
    bench.now += SECOND;
    bench.hear(Update, 1, ESTABLISHED);
    bench.now += 2 * SECOND;
    bench.hear(Update, 1, TIME_WAIT);
    bench.now += 140 * SECOND;
    bench.hear(Destroy, 1, TIME_WAIT);
    // Nobody heard when it came to wait: the timeout of its state tells.
    bench.hear(New, 2, SYN_SENT);
    bench.now += 125 * SECOND;
    bench.hear(Destroy, 2, TIME_WAIT);
    let activity = bench.activity();
    let mut durations: Vec<_> = activity.durations.samples().collect();
    let (kept, of) = durations.remove(0);
    let mut kept = kept.to_vec();
    kept.sort_by(f32::total_cmp);
    assert_eq!((kept, of), (vec![3.0, 5.0], 2));
}

#[test]
fn what_an_entry_has_left_tells_when_its_connection_was_over() {
    // Of 120 seconds; a dump a minute after the end does not make it last longer.
    for (left, stopped, lasted) in [
        // Half a second either way: deleted, or no times are kept.
        (90, None, 9.5),
        // To the tick, where it expires by itself, unless that cannot be.
        (90, Some(130), 10.0),
        (90, Some(150), 9.5),
        (90, Some(100), 9.5),
        // A timeout of its own, which nobody knows.
        (900, None, 39.0),
    ] {
        let mut bench: Bench<Story> = Bench::listening();
        let began = bench.now;
        bench.hear(New, 1, SYN_SENT);
        bench.now += 39 * SECOND;
        let mut shown = entry(1, TIME_WAIT);
        shown.details.timeout = Some(left);
        bench.ledger.begin();
        bench.with(|ledger, now, books| ledger.dumped(&shown, now, books));
        bench.finish();
        bench.now += 300 * SECOND;
        let mut end = event(Destroy, 1, TIME_WAIT);
        end.entry.details.stopped = stopped.map(|after| began + after * SECOND);
        bench.with(|ledger, now, books| ledger.event(&end, now, books));
        let activity = bench.activity();
        let (kept, _) = activity.durations.samples().next().unwrap();
        assert_eq!(kept, [lasted], "{left} {stopped:?}");
    }
}

#[test]
fn traffic_is_counted_from_dumps_and_at_the_end_and_never_twice() {
    let counted = |packets| {
        let of = |packets| Traffic {
            packets,
            bytes: 100 * packets,
        };
        Some([of(packets), of(2 * packets)])
    };
    let mut bench: Bench<Story> = Bench::deaf();
    let show = |bench: &mut Bench<Story>, packets| {
        let mut shown = entry(1, ESTABLISHED);
        shown.details.traffic = counted(packets);
        bench.ledger.begin();
        bench.with(|ledger, now, books| ledger.dumped(&shown, now, books));
        bench.finish();
    };
    // What it carried before the start is nobody's.
    show(&mut bench, 10);
    show(&mut bench, 13);
    show(&mut bench, 13);
    let mut end = event(Destroy, 1, TIME_WAIT);
    end.entry.details.traffic = counted(15);
    bench.with(|ledger, now, books| ledger.event(&end, now, books));
    let activity = bench.activity();
    // Forwarded: the original way goes to the remote host.
    assert_eq!((activity.sent.packets, activity.sent.bytes), (5, 500));
    assert_eq!(
        (activity.received.packets, activity.received.bytes),
        (10, 1000)
    );
}

/// One step of a kernel whose table changes while it is dumped and whose events may
/// be lost.
#[derive(Clone, Debug)]
enum Move {
    Begin(u8),
    Turn(u8, u8),
    End(u8),
    /// Events arrive.
    Deliver(usize),
    /// A datagram of the dump is read, which was made when the last one was.
    Dump,
    /// Those that wait are lost.
    Lose,
}

fn moves(loses: bool) -> impl Strategy<Value = Vec<Move>> {
    let flow = 0_u8..8;
    let step = prop_oneof![
        4 => flow.clone().prop_map(Move::Begin),
        4 => (flow.clone(), 0_u8..4).prop_map(|(flow, state)| Move::Turn(flow, state)),
        3 => flow.prop_map(Move::End),
        4 => (0_usize..6).prop_map(Move::Deliver),
        4 => Just(Move::Dump),
        u32::from(loses) => Just(Move::Lose),
    ];
    prop::collection::vec(step, 0..120)
}

/// The kernel: its table, the events under way, and the dump.
#[derive(Default)]
struct Kernel {
    table: [Option<State>; 8],
    events: VecDeque<Event>,
    /// What is left of the table to be walked, and the datagram that is made already.
    dump: Option<(usize, Vec<(u8, State)>)>,
    begun: u64,
    ended: u64,
    /// Whether nobody listens to updates.
    ends_alone: bool,
}

impl Kernel {
    /// One, and a ledger, that hear everything or beginnings and ends alone.
    fn heard(bench: &mut Bench, ends_alone: bool) -> Self {
        bench.ledger.hear(if ends_alone {
            Hearing::Ends
        } else {
            Hearing::Everything
        });
        Self {
            ends_alone,
            ..Self::default()
        }
    }

    fn walk(&mut self) -> Vec<(u8, State)> {
        let Some((at, made)) = self.dump.take() else {
            self.dump = Some((0, Vec::new()));
            return self.walk();
        };
        let next = (at..self.table.len().min(at + 2))
            .filter_map(|place| Some((u8::try_from(place).ok()?, self.table[place]?)))
            .collect();
        if at < self.table.len() {
            self.dump = Some((at + 2, next));
        }
        made
    }

    fn act(&mut self, act: &Move) {
        const STATES: [State; 4] = [SYN_SENT, ESTABLISHED, TIME_WAIT, CLOSE];
        let tell = |kernel: &mut Self, happening, number, state| {
            if !(happening == Update && kernel.ends_alone) {
                kernel.events.push_back(event(happening, number, state));
            }
        };
        match *act {
            Move::Begin(number) if self.table[usize::from(number)].is_none() => {
                self.table[usize::from(number)] = Some(SYN_SENT);
                self.begun += 1;
                tell(self, New, number, SYN_SENT);
            }
            Move::Turn(number, state) if self.table[usize::from(number)].is_some() => {
                let state = STATES[usize::from(state)];
                self.table[usize::from(number)] = Some(state);
                tell(self, Update, number, state);
            }
            Move::End(number) => {
                if let Some(state) = self.table[usize::from(number)].take() {
                    self.ended += 1;
                    tell(self, Destroy, number, state);
                }
            }
            _ => {}
        }
    }
}

fn play(bench: &mut Bench, kernel: &mut Kernel, moves: &[Move]) {
    let deliver = |bench: &mut Bench, kernel: &mut Kernel, count: usize| {
        for _ in 0..count {
            if let Some(event) = kernel.events.pop_front() {
                bench.with(|ledger, now, books| ledger.event(&event, now, books));
            }
        }
    };
    let step = |bench: &mut Bench, kernel: &mut Kernel| {
        if kernel.dump.is_none() {
            let all = kernel.events.len();
            deliver(bench, kernel, all);
            bench.ledger.begin();
        }
        for (number, state) in kernel.walk() {
            bench.show(number, state);
        }
        if kernel.dump.is_none() {
            let all = kernel.events.len();
            deliver(bench, kernel, all);
            bench.finish();
        }
    };
    for act in moves {
        match act {
            Move::Deliver(count) => deliver(bench, kernel, *count),
            Move::Dump => step(bench, kernel),
            Move::Lose => kernel.events.clear(),
            act => kernel.act(act),
        }
    }
    // A last dump while nothing happens.
    let all = kernel.events.len();
    deliver(bench, kernel, all);
    while kernel.dump.is_some() {
        step(bench, kernel);
    }
    step(bench, kernel);
    while kernel.dump.is_some() {
        step(bench, kernel);
    }
}

fn expected(kernel: &Kernel) -> Vec<(&'static str, u64)> {
    let mut sums = std::collections::BTreeMap::new();
    for state in kernel.table.iter().flatten() {
        *sums.entry(state.general().as_str()).or_insert(0) += 1;
    }
    sums.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Where no event is lost, every flow is counted once, whenever dumps are made and
    /// however late events come, and nothing needs to be corrected.
    #[test]
    fn prop_every_flow_begins_once_and_ends_once(
        moves in moves(false),
        ends_alone in any::<bool>(),
    ) {
        let mut bench: Bench = Bench::listening();
        let mut kernel = Kernel::heard(&mut bench, ends_alone);
        play(&mut bench, &mut kernel, &moves);
        prop_assert_eq!(bench.states(), expected(&kernel));
        let [found, opened, picked_up, closed, failed] = bench.totals();
        prop_assert_eq!((found, opened, picked_up), (0, kernel.begun, 0));
        prop_assert_eq!(closed + failed, kernel.ended);
        prop_assert_eq!(bench.counters.corrections.total(), 0);
    }

    /// Whatever is lost, the tally is the table after the next dump, nothing is counted
    /// twice, and what went in is what came out and what is there.
    #[test]
    fn prop_a_dump_puts_right_whatever_was_lost(
        moves in moves(true),
        first in any::<bool>(),
        ends_alone in any::<bool>(),
    ) {
        let mut bench: Bench = if first { Bench::deaf() } else { Bench::listening() };
        let mut kernel = Kernel::heard(&mut bench, ends_alone);
        play(&mut bench, &mut kernel, &moves);
        prop_assert_eq!(bench.states(), expected(&kernel));
        bench.balance();
        let [found, opened, _, closed, failed] = bench.totals();
        prop_assert!(found + opened <= kernel.begun);
        prop_assert!(closed + failed <= kernel.ended);
    }
}
