//! What is done to one flow: what is told of it is taken in, and its beginning and its
//! end are counted.

use super::super::Count;
use super::super::ending::{Detail, end_of, is_over};
use super::super::table::{Kept, Marks};
use super::{Hearing, Totals};
use crate::conntrack::Event;
use crate::conntrack::sysctl::Timeouts;
use crate::flow::key::FlowKey;
use crate::flow::{
    Beginning, ConnectionState, Details, End, Entry, Flow, Protocol, State, Status, Traffic, Tuple,
};
use crate::tally::Series;
use crate::telemetry::{CollectorCounters, Correction};

/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// A flow that has ended.
#[derive(Clone, Copy, Debug)]
pub(in crate::collector) struct Gone {
    pub(in crate::collector) key: FlowKey,
    /// Where an event told of the end; the original and the reply way.
    pub(in crate::collector) tuples: Option<(Tuple, Tuple)>,
    pub(in crate::collector) protocol: Protocol,
    pub(in crate::collector) zone: u16,
    pub(in crate::collector) series: Series,
    pub(in crate::collector) end: End,
    /// Nanoseconds.
    pub(in crate::collector) lasted: Option<u64>,
    /// Whether packets of the original way went to the remote host.
    pub(in crate::collector) outward: bool,
    /// Of the original and the reply way, where the kernel counts.
    pub(in crate::collector) traffic: Option<[Traffic; 2]>,
}

/// Where the ledger writes what it finds.
pub(in crate::collector) struct Books<'a> {
    pub(in crate::collector) count: &'a mut Count,
    pub(in crate::collector) counters: &'a CollectorCounters,
}

impl Books<'_> {
    pub(super) fn corrected(&self, correction: Correction) {
        self.counters.corrections.add(correction, 1);
    }
}

/// How an end was told.
pub(super) struct Told {
    /// When, nanoseconds since the epoch.
    at: u64,
    /// When the entry expired, as the kernel has it.
    stopped: Option<u64>,
    /// Seconds that the entry had left.
    left: u32,
    tuples: Option<(Tuple, Tuple)>,
    protocol: Option<(Protocol, u16)>,
    traffic: Option<[Traffic; 2]>,
}

impl Told {
    pub(super) const fn by_absence(now: u64) -> Self {
        Self {
            at: now,
            stopped: None,
            left: 0,
            tuples: None,
            protocol: None,
            traffic: None,
        }
    }

    pub(super) fn by_event(event: &Event, now: u64) -> Self {
        let Entry { flow, details } = &event.entry;
        Self {
            at: now,
            stopped: details.stopped,
            left: details.timeout.unwrap_or_default(),
            tuples: Some((flow.original, flow.reply)),
            protocol: Some((flow.protocol, flow.zone)),
            traffic: details.traffic,
        }
    }
}

/// Counts a beginning that its NEW tells of.
pub(super) fn begin<D: Detail>(
    kept: &mut Kept<D>,
    event: &Event,
    now: u64,
    totals: &mut Totals,
    books: &mut Books<'_>,
) {
    let Entry { flow, details } = &event.entry;
    if flow.beginning == Beginning::Missed {
        kept.marks.set(Marks::PICKED_UP);
        totals.picked_up += 1;
        if let Some(started) = details.started {
            kept.detail.begin(started);
        }
    } else {
        totals.opened += 1;
        books.count.tally.activity(kept.row).opened += 1;
        kept.detail
            .begin(details.started.or(details.event_time).unwrap_or(now));
    }
    note(kept, flow.state, event.status.unwrap_or_default());
}

/// Counts a beginning that was only found.
pub(super) fn begin_late<D>(
    kept: &mut Kept<D>,
    first: bool,
    hearing: Hearing,
    totals: &mut Totals,
    books: &mut Books<'_>,
) {
    kept.marks.unset(Marks::FOUND);
    if first {
        totals.found += 1;
        return;
    }
    if hearing != Hearing::Nothing {
        books.corrected(Correction::MissedNew);
    }
    if kept.marks.has(Marks::PICKED_UP) {
        totals.picked_up += 1;
    } else {
        totals.opened += 1;
        books.count.tally.activity(kept.row).opened += 1;
    }
}

/// When a flow that a dump shows came to be in its state, as far as the seconds that its
/// entry has left tell.
pub(super) fn state_since(entry: &Entry, timeouts: &Timeouts, now: u64) -> u64 {
    let Entry { flow, details } = entry;
    details.timeout.map_or(now, |left| {
        let timeout = timeouts.of(flow.protocol, flow.state);
        now.saturating_sub(waited(timeout, left))
    })
}

/// Nanoseconds that an entry with this timeout has waited when it has so many seconds
/// left. The kernel leaves out what is less than a second: on average, half of one.
fn waited(timeout: u32, left: u32) -> u64 {
    (u64::from(timeout.saturating_sub(left)) * SECOND).saturating_sub(SECOND / 2)
}

/// Takes in what is told of a flow; what is not told stays as it was. `now`: when it came
/// to be in that state.
pub(super) fn learn<D: Detail>(
    kept: &mut Kept<D>,
    state: Option<State>,
    status: Status,
    details: &Details,
    now: u64,
    books: &mut Books<'_>,
) {
    let before = kept.state();
    let state = state.unwrap_or(before);
    if state != before {
        books.count.tally.turn(kept.row, before, state);
        kept.set_state(state);
    }
    note(kept, state, status);
    kept.marks.set(Marks::GOODBYE.when(details.fin_seen));
    if D::IS_KEPT && is_over(state) {
        kept.detail.finish(details.event_time.unwrap_or(now));
    }
}

/// Takes in what a DESTROY tells. Its state is the last one, but not when it came to be.
pub(super) fn learn_end<D: Detail>(kept: &mut Kept<D>, event: &Event, books: &mut Books<'_>) {
    let before = kept.state();
    if let Some(state) = event.state.filter(|&state| state != before) {
        books.count.tally.turn(kept.row, before, state);
        kept.set_state(state);
    }
    note(kept, kept.state(), event.status.unwrap_or_default());
    let Details {
        started, stopped, ..
    } = event.entry.details;
    if let (Some(started), Some(_)) = (started, stopped) {
        kept.detail.begin(started);
    }
    count_traffic(kept, &event.entry.details, books);
}

pub(super) fn note<D>(kept: &mut Kept<D>, state: State, status: Status) {
    kept.marks.set(marks(state, status));
}

fn marks(state: State, status: Status) -> Marks {
    let general = state.general();
    let replied = status.has(Status::SEEN_REPLY);
    let assured = status.has(Status::ASSURED);
    Marks::REPLIED.when(replied)
        | Marks::OPENED.when(assured || general == ConnectionState::Open)
        | (Marks::OPENED | Marks::GOODBYE).when(general == ConnectionState::Closing)
}

/// What a flow has been through, as far as one look tells.
pub(in crate::collector) fn marks_of(flow: &Flow, details: &Details) -> Marks {
    marks(flow.state, flow.status) | Marks::GOODBYE.when(details.fin_seen)
}

pub(super) fn count_traffic<D: Detail>(
    kept: &mut Kept<D>,
    details: &Details,
    books: &mut Books<'_>,
) {
    if !D::IS_KEPT {
        return;
    }
    let Some(traffic) = details.traffic else {
        return;
    };
    let [original, reply] = kept.detail.carry(traffic);
    if original == Traffic::default() && reply == Traffic::default() {
        return;
    }
    let activity = books.count.tally.activity(kept.row);
    if kept.marks.has(Marks::OUTWARD) {
        activity.sent.add(original);
        activity.received.add(reply);
    } else {
        activity.sent.add(reply);
        activity.received.add(original);
    }
}

/// Counts a flow out, and its end.
pub(super) fn settle<D: Detail>(
    kept: &Kept<D>,
    told: &Told,
    timeouts: &Timeouts,
    totals: &mut Totals,
    gone: Option<&mut Vec<Gone>>,
    books: &mut Books<'_>,
) {
    let state = kept.state();
    books.count.tally.leave(kept.row, state);
    let Some(&series) = books.count.tally.series(kept.row) else {
        return;
    };
    let end = end_of(series.protocol, state, kept.marks);
    let lasted = lifetime(kept, told, series.protocol, timeouts);
    let activity = books.count.tally.activity(kept.row);
    match end {
        End::Closed => {
            totals.closed += 1;
            activity.closed += 1;
        }
        End::Failed(failure) => {
            totals.failed += 1;
            activity.failed[failure as usize] += 1;
        }
    }
    if let Some(nanoseconds) = lasted.filter(|_| kept.marks.has(Marks::OPENED)) {
        let seconds = std::time::Duration::from_nanos(nanoseconds).as_secs_f32();
        activity.durations.push(seconds);
    }
    if let Some(gone) = gone {
        let (protocol, zone) = told.protocol.unwrap_or((series.protocol, 0));
        gone.push(Gone {
            key: kept.key(),
            tuples: told.tuples,
            protocol,
            zone,
            series,
            end,
            lasted,
            outward: kept.marks.has(Marks::OUTWARD),
            traffic: told.traffic,
        });
    }
}

/// Nanoseconds from the beginning of a flow to its last packet. An entry outlives that
/// by the timeout of its last state.
pub(super) fn lifetime<D: Detail>(
    kept: &Kept<D>,
    told: &Told,
    protocol: Protocol,
    timeouts: &Timeouts,
) -> Option<u64> {
    let (began, over) = kept.detail.life();
    let timeout = timeouts.of(protocol, kept.state());
    let whole = u64::from(timeout) * SECOND;
    let over = match (over, told.stopped) {
        // Which the kernel tells to the tick, where nothing says that the entry had
        // another timeout.
        (Some(over), Some(stopped))
            if told.left == 0 && over.abs_diff(stopped.saturating_sub(whole)) <= SECOND =>
        {
            stopped.saturating_sub(whole)
        }
        (Some(over), _) => over,
        (None, _) => {
            let waited = match told.left {
                0 => whole,
                left => waited(timeout, left),
            };
            told.stopped.unwrap_or(told.at).saturating_sub(waited)
        }
    };
    Some(over.saturating_sub(began?))
}
