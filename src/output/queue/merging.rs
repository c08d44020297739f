//! The backlog behind a queue: what goes into it, and when what is in it goes on.

use tokio::time::Instant;

use super::backfill::{self, Backfill};
use super::{OVERDRAFT_DIVISOR, Settings, Shared, State};
use crate::config::{LineSource, OnFull};
use crate::output::backlog::{Backlog, Dropped, Given, OWN, Portion, Run, Sender};
use crate::output::payload::Appended;
use crate::output::spool::{Contents, Kind};
use crate::telemetry::LineDrop;

/// What is taken from the backlog at once, and what a UDP receiver bears at once.
const RESTOCK_BYTES: usize = 32 << 10;

/// The backlog, and what is known of its course.
#[derive(Debug)]
pub(super) struct Merging {
    /// What found no room, and what came behind that: while anything is in it, all
    /// lines go there, so that none overtakes an older one of its context.
    pub(super) backlog: Backlog,
    /// Room kept from senders while the output takes what was merged.
    recovering: Option<usize>,
    /// The times that were free of lines, if any is to be told.
    backfill: Option<Backfill>,
    /// Where everything is merged, when that ends and how much of it is to go.
    aggregation: Option<Aggregation>,
}

#[derive(Debug)]
struct Aggregation {
    /// When what is there then is to go.
    next: Option<Instant>,
    /// Contexts that are to go now.
    due: usize,
}

impl Merging {
    pub(super) fn new(settings: &Settings) -> Self {
        let every = settings.backlog.tick_seconds;
        let backfill = (settings.backfill).then(|| Backfill::new(every, backfill::now()));
        Self {
            backlog: Backlog::new(settings.backlog),
            recovering: None,
            backfill,
            aggregation: settings
                .aggregate
                .map(|_| Aggregation { next: None, due: 0 }),
        }
    }

    /// Whether all lines are merged, and not only those that find no room.
    pub(super) const fn is_steady(&self) -> bool {
        self.aggregation.is_some()
    }

    /// Contexts that may go now.
    fn due(&self) -> usize {
        let due = self.aggregation.as_ref().map(|aggregation| aggregation.due);
        due.unwrap_or(usize::MAX).min(self.backlog.contexts())
    }

    /// What is merged for a while is due now.
    pub(super) fn hurry(&mut self) {
        let contexts = self.backlog.contexts();
        if let Some(aggregation) = &mut self.aggregation {
            aggregation.due = contexts;
        }
    }

    /// When more is due, if that is known.
    pub(super) fn next(&self) -> Option<Instant> {
        let next = self.aggregation.as_ref()?.next;
        next.filter(|_| !self.backlog.is_empty())
    }

    /// Gives back lines, with their times where those are free.
    fn drain(&mut self, portion: Portion, to: &mut Vec<u8>, runs: impl FnMut(Run)) -> Given {
        let Self {
            backlog,
            backfill,
            aggregation,
            ..
        } = self;
        let now = backfill::now();
        let is_free = |tick| {
            let backfill = backfill.as_ref();
            backfill.is_some_and(|backfill| backfill.is_free(tick, now))
        };
        let given = backlog.drain(portion, to, is_free, runs);
        if let Some(aggregation) = aggregation {
            aggregation.due = aggregation.due.saturating_sub(given.entries);
        }
        given
    }

    /// Lines without timestamps went, or may have gone.
    pub(super) fn note_sent(&mut self) {
        if let Some(backfill) = &mut self.backfill {
            backfill.went(backfill::now());
        }
    }

    /// Whether what was merged is to go before senders have room again.
    pub(super) fn is_recovering(&self) -> bool {
        !self.backlog.is_empty() && !self.is_steady()
    }

    /// Keeps room from senders until what was merged has gone, or there would be no end to
    /// merging.
    pub(super) fn keep_room(&mut self, room: usize) {
        *self.recovering.get_or_insert(0) += room;
    }
}

impl Shared {
    /// Hands lines to the backlog, if they may be merged; or, unless `always`, only if all
    /// are, or there is something in it that they must not overtake. Whether that was done.
    pub(super) fn merge(&self, lines: &[u8], count: u64, from: Sender, always: bool) -> bool {
        if from.source == LineSource::Listeners && self.settings.on_full != OnFull::Merge {
            return false;
        }
        let mut state = self.lock();
        let is_steady = state.merging.is_steady();
        let must = always || is_steady || !state.merging.backlog.is_empty();
        if state.closed.is_some() || !must {
            return false;
        }
        let Merging {
            backlog, backfill, ..
        } = &mut state.merging;
        let tick = backfill.as_ref();
        let tick = tick.and_then(|backfill| backfill.tick(backfill::now()));
        let was_empty = backlog.is_empty();
        let merged = backlog.merge(lines, from, tick);
        self.counters.accepted.add(count);
        self.count_dropped(merged.dropped);
        self.tell_backlog(&state);
        // What is merged for a while need not be told of each time.
        let wakes = !is_steady || was_empty || self.is_crowded(&state);
        drop(state);
        if wakes {
            self.wake.notify_one();
        }
        true
    }

    fn count_dropped(&self, dropped: Dropped) {
        if dropped.total() == 0 {
            return;
        }
        for (reason, lines) in dropped.by_reason() {
            self.counters.dropped.add(reason, lines);
        }
        self.counters.dropped_queue_bytes.add(dropped.bytes);
    }

    pub(super) fn tell_backlog(&self, state: &State) {
        let backlog = &state.merging.backlog;
        self.counters
            .backlog_contexts
            .set(backlog.contexts() as u64);
        self.counters.backlog_bytes.set(backlog.bytes() as u64);
    }

    /// Bytes of overdraft that are left.
    pub(super) fn overdraft(&self, state: &State) -> usize {
        (self.settings.capacity / OVERDRAFT_DIVISOR).saturating_sub(state.debt)
    }

    /// Whether the backlog is half full: what is merged for a while had better go.
    fn is_crowded(&self, state: &State) -> bool {
        let (backlog, limits) = (&state.merging.backlog, self.settings.backlog);
        backlog.contexts() > limits.contexts / 2 || backlog.bytes() > limits.bytes / 2
    }

    /// Makes due what was merged for long enough, or everything at the end.
    pub(super) fn fall_due(&self, state: &mut State, ended: bool) {
        let Some(every) = self.settings.aggregate else {
            return;
        };
        let is_crowded = self.is_crowded(state);
        let contexts = state.merging.backlog.contexts();
        let Some(aggregation) = &mut state.merging.aggregation else {
            return;
        };
        let now = Instant::now();
        let next = *aggregation.next.get_or_insert(now + every);
        if next <= now {
            // In step, also where a tick was missed.
            let late = now.duration_since(next).as_nanos() / every.as_nanos().max(1);
            let steps = u32::try_from(late).unwrap_or(u32::MAX).saturating_add(1);
            aggregation.next = Some(next + every * steps);
        }
        if next <= now || ended || is_crowded {
            aggregation.due = contexts;
        }
    }

    /// Whether a part of the backlog may go behind what is queued: where there is nothing
    /// that could go before, or where the backlog is the agent's alone and there is leave to
    /// overdraw.
    pub(super) fn may_restock(&self, state: &State) -> bool {
        if state.merging.due() == 0 {
            return false;
        }
        !state.has_sealed() || (self.settings.on_full != OnFull::Merge && self.overdraft(state) > 0)
    }

    /// Moves a part of the backlog behind what is queued.
    pub(super) fn restock(&self, state: &mut State) {
        let mut done = Appended::default();
        let (mut lines, mut runs) = (Vec::new(), Vec::new());
        let portion = Portion {
            entries: state.merging.due(),
            bytes: RESTOCK_BYTES,
        };
        let given = state
            .merging
            .drain(portion, &mut lines, |run| runs.push(run));
        self.counters.merged.add(given.merged_away);
        self.counters.merged_contexts.add(given.merged_contexts);
        let mut rest = &*lines;
        for run in runs {
            let Some((text, after)) = rest.split_at_checked(run.bytes) else {
                break;
            };
            rest = after;
            let encoding = &self.settings.encoding;
            let mut encoded = Vec::new();
            let (text, count) = if encoding.is_identity() {
                (text, run.lines)
            } else {
                let outcome = encoding.encode(text, run.source, &mut encoded);
                let dropped = outcome.dropped;
                self.counters.drop_lines(LineDrop::Format, dropped, 0);
                // One line may become several.
                let more = (outcome.lines + dropped).saturating_sub(run.lines);
                self.counters.accepted.add(more);
                (&*encoded, outcome.lines)
            };
            done.add(state.append(self.settings.shape, text, count));
        }
        state.debt += done.bytes - self.room.forget_permits(done.bytes);
        if state.merging.backlog.is_empty() {
            self.recover(state);
        }
        self.tell_backlog(state);
        if done.oversized > 0 {
            self.drop_oversized(done);
        }
    }

    /// Takes one line of an earlier run: its time is long over.
    pub(super) fn restore(&self, line: &[u8], source: LineSource) {
        let from = Sender { source, id: OWN };
        let mut state = self.lock();
        let merged = state.merging.backlog.merge(line, from, None);
        self.counters.accepted.add(1);
        self.count_dropped(merged.dropped);
        self.tell_backlog(&state);
    }

    /// Moves all that is in the backlog to `contents`.
    pub(super) fn empty_backlog(&self, contents: &mut Contents) {
        let mut state = self.lock();
        let (mut lines, mut runs) = (Vec::new(), Vec::new());
        let all = Portion::of_bytes(usize::MAX);
        let given = state.merging.drain(all, &mut lines, |run| runs.push(run));
        self.counters.merged.add(given.merged_away);
        let mut rest = &*lines;
        for run in runs {
            let (text, after) = rest.split_at_checked(run.bytes).unwrap_or((rest, &[]));
            rest = after;
            contents.add(Kind::Raw(run.source), text);
        }
        self.tell_backlog(&state);
    }

    /// Gives senders the room that was kept from them for the backlog's sake.
    pub(super) fn recover(&self, state: &mut State) {
        if let Some(kept) = state.merging.recovering.take() {
            self.room.add_permits(kept);
        }
    }
}
