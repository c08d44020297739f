//! Where dumps and events come together: they are placed, counted, and answered for.

mod listening;
mod telling;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::ending::{Detail, is_over};
use super::journal::{Ended, Journal};
use super::ledger::{Books, Hearing, Ledger, Totals};
use super::mode::Pace;
use super::source::{Look, Sink};
use super::{Answer, Count};
use crate::config::{self, Config};
use crate::conntrack::sysctl::{Timeouts, events_enabled};
use crate::conntrack::{Events, TableSize};
use crate::flow::key::KeyHasher;
use crate::flow::{Entry, nanoseconds_since_epoch};
use crate::hosts::select::Selector;
use crate::report::{self, Snapshot, Source};
use crate::telemetry::CollectorCounters;

/// Bytes of events that are read before something else gets its turn.
const DRAIN_BYTES: usize = 4 << 20;

/// Connections that are told of at most before they leave the table.
const MOST_OVER: usize = 65_536;

/// A table that is smaller or larger by so many entries than the flows that are
/// followed let expect, and by so large a part of them, is looked at again soon.
const DRIFT: u64 = 1000;
const DRIFT_PART: u64 = 4;

/// How the table's size stands to the flows that are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drift {
    /// As expected.
    None,
    /// Not quite.
    Small,
    /// Far from it.
    Large,
}

/// What was read of the events that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// There were none.
    Nothing,
    /// All of them.
    Wholly,
    /// As many as it may be at once.
    Partly,
}

/// Whether events were lost.
#[derive(Clone, Copy, Debug, Default)]
struct Losses {
    /// Since the last second was looked at, in the largest buffer that can be had.
    in_second: bool,
    /// Since the last dump began.
    in_dump: bool,
}

/// What is kept of flows between dumps.
#[derive(Debug)]
pub(super) struct Desk<D> {
    config: config::Collector,
    pub(super) count: Count,
    selector: Selector,
    /// None where nothing is kept of a flow: `mode = "dump"`.
    ledger: Option<Ledger<D>>,
    pub(super) pace: Pace,
    pub(super) events: Option<Events>,
    /// Events that the kernel had dropped, of this socket, when it was last looked.
    drops: u64,
    /// What the ledger had counted when it was last told.
    totals: Totals,
    losses: Losses,
    source: Option<Source>,
    /// Whether there are more flows than may be followed: then dumps alone count.
    crowded: bool,
    pub(super) counters: Arc<CollectorCounters>,
    /// Entries that the last dump found beside the flows that are followed.
    beside: i64,
    pub(super) journal: Journal,
    /// What a dump is to find that is over but still in the table.
    over: Option<Vec<Ended>>,
    /// Why this mode, in a sentence.
    pub(super) why: String,
    /// Whether it was said that no events can be had.
    told: bool,
    /// When the datagram that is read was received, nanoseconds since the epoch.
    now: u64,
}

impl<D: Detail> Desk<D> {
    pub(super) fn new(config: &Config, keys: KeyHasher, counters: Arc<CollectorCounters>) -> Self {
        let follows = D::IS_KEPT || config.collector.mode != config::CollectorMode::Dump;
        Self {
            config: config.collector.clone(),
            count: Count::new(config),
            selector: Selector::new(config.hosts.max),
            ledger: follows.then(|| ledger(&config.collector, keys)),
            pace: Pace::new(&config.collector, config.interval.0),
            events: None,
            drops: 0,
            totals: Totals::default(),
            losses: Losses::default(),
            source: None,
            crowded: false,
            counters,
            beside: 0,
            journal: Journal::default(),
            over: None,
            why: String::new(),
            told: false,
            now: nanoseconds_since_epoch(),
        }
    }

    /// Before a dump: listens first, so that nothing happens between the two unheard.
    pub(super) fn prepare(&mut self) {
        let tells = events_enabled() != Some(false);
        if self.pace.set_tells(tells) {
            if tells {
                info!("the kernel tells of events again");
            } else {
                warn!(
                    "the kernel tells of no events (net.netfilter.nf_conntrack_events is 0): \
                     connections that last less than a tick are not seen; turn them on with \
                     sysctl -w net.netfilter.nf_conntrack_events=2"
                );
            }
        }
        self.tune();
        self.catch_up();
        self.losses.in_dump = false;
    }

    /// After a dump of so many entries: reads the events that waited, which belong to it,
    /// and strikes the balance.
    pub(super) fn conclude(&mut self, look: &Look, took: Duration, now: Instant) {
        let &Look {
            source,
            entries,
            table,
        } = look;
        self.catch_up();
        let hearing = self.hearing();
        if self.crowded {
            // Below four fifths it does not soon have to be given up again.
            if entries < self.config.max_flows / 5 * 4 {
                info!(
                    entries,
                    "as few connections as may be followed: following them again"
                );
                self.crowded = false;
                self.count.tally.clear();
            }
            return;
        }
        if let Some(ledger) = &mut self.ledger {
            let mut books = Books {
                count: &mut self.count,
                counters: &self.counters,
            };
            ledger.finish(nanoseconds_since_epoch(), &mut books);
            ledger.hear(hearing);
            if let Some(table) = table {
                let flows = i64::try_from(ledger.size().0).unwrap_or(i64::MAX);
                self.beside = i64::from(table.entries) - flows;
            }
            if ledger.is_overfull() {
                warn!(
                    max_flows = self.config.max_flows,
                    "more connections than collector.max_flows lets us follow: counting them by \
                     dumps alone, without what opened and closed"
                );
                ledger.forget();
                self.crowded = true;
                self.close_events();
                return;
            }
        }
        self.record_ends();
        self.counters.resyncs.add(1);
        if source == Source::Conntrack
            && self.ledger.is_some()
            && let Some(message) = self.pace.dumped(took, now)
        {
            info!("{message}");
            self.why = message;
            self.counters.mode_changes.add(1);
            self.tune();
        }
    }

    /// Whether there are more flows than may be followed, so that dumps alone count.
    pub(super) const fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// How far the table's size is from what the last dump and the events since let
    /// expect: flows of which no event tells have ended, or events were lost unseen.
    pub(super) fn drift(&self, entries: u32) -> Drift {
        let Some(ledger) = self.ledger.as_ref().filter(|_| self.is_current()) else {
            return Drift::None;
        };
        let flows = ledger.size().0 as u64;
        let expected = flows.saturating_add_signed(self.beside);
        match expected.abs_diff(entries.into()) {
            0 => Drift::None,
            drift if drift <= DRIFT.max(expected / DRIFT_PART) => Drift::Small,
            _ => Drift::Large,
        }
    }

    /// A dump failed.
    pub(super) fn abandon(&mut self) {
        if let Some(ledger) = &mut self.ledger {
            ledger.abandon();
        }
    }

    /// Whether a dump has come to its end.
    pub(super) fn is_known(&self) -> bool {
        !self.crowded && self.ledger.as_ref().is_some_and(Ledger::is_known)
    }

    /// Whether the counts are whole between dumps, so that a tick needs none.
    pub(super) fn is_current(&self) -> bool {
        self.is_known() && self.hearing() == Hearing::Everything
    }

    /// A tick: what there is now, and what happened since the last.
    pub(super) fn answer(
        &mut self,
        source: Source,
        table: Option<TableSize>,
        kernel: Vec<(&'static str, u64)>,
    ) -> Answer {
        self.publish();
        let connections =
            self.selector
                .select(&self.count.tally, &self.count.hosts, Instant::now());
        self.count.tally.settle();
        Answer {
            source,
            snapshot: Snapshot {
                netns: None,
                connections,
                table: table.map(|table| report::TableSize {
                    entries: u64::from(table.entries),
                    limit: Some(u64::from(table.limit)),
                }),
                kernel,
            },
        }
    }

    /// Writes what the ledger counts where it is read.
    fn publish(&mut self) {
        let counters = &self.counters;
        let listens = self.source == Some(Source::Conntrack);
        counters.mode.set(listens.then_some(self.mode()));
        let mut buffer = 0;
        if let Some(events) = &self.events {
            buffer = events.buffer_bytes() as u64;
            let drops = events.kernel_drops().unwrap_or_default();
            counters.events_lost.add(drops.saturating_sub(self.drops));
            self.drops = drops;
        }
        counters.event_buffer_bytes.set(buffer);
        if let Some(ledger) = &self.ledger {
            let totals = ledger.totals();
            let before = std::mem::replace(&mut self.totals, totals);
            counters.flows_found.add(totals.found - before.found);
            counters.flows_opened.add(totals.opened - before.opened);
            counters
                .flows_picked_up
                .add(totals.picked_up - before.picked_up);
            counters.flows_closed.add(totals.closed - before.closed);
            counters.flows_failed.add(totals.failed - before.failed);
            counters
                .flows_forgotten
                .add(totals.forgotten - before.forgotten);
            let (flows, bytes) = ledger.size();
            counters.flows.set(flows as u64);
            counters.flow_table_bytes.set(bytes as u64);
        }
    }
}

fn ledger<D: Detail>(config: &config::Collector, keys: KeyHasher) -> Ledger<D> {
    let max_flows = usize::try_from(config.max_flows).unwrap_or(usize::MAX);
    let max_flows = if max_flows == 0 {
        usize::MAX
    } else {
        max_flows
    };
    Ledger::new(max_flows, Timeouts::read(), keys)
}

impl<D: Detail> Sink for Desk<D> {
    fn begin(&mut self, source: Source) {
        self.count.refresh();
        match &mut self.ledger {
            Some(ledger) if !self.crowded => {
                // What one source knows as a flow, the other does not.
                if self.source.is_some_and(|before| before != source) {
                    debug!(
                        source = source.as_str(),
                        "following flows of another source"
                    );
                    ledger.forget();
                    self.count.tally.clear();
                }
                if D::IS_KEPT {
                    ledger.set_timeouts(Timeouts::read());
                }
                ledger.begin();
            }
            _ => self.count.tally.clear(),
        }
        if self.source.replace(source) != Some(source) {
            self.tune();
        }
        self.now = nanoseconds_since_epoch();
    }

    fn entry(&mut self, entry: &Entry) {
        if self.over.is_some() && is_over(entry.flow.state) {
            self.note_over(entry);
        }
        match &mut self.ledger {
            Some(ledger) if !self.crowded => {
                let mut books = Books {
                    count: &mut self.count,
                    counters: &self.counters,
                };
                ledger.dumped(entry, self.now, &mut books);
            }
            _ => self.count.add(&entry.flow),
        }
    }

    fn datagram(&mut self) {
        self.drain();
        self.now = nanoseconds_since_epoch();
    }
}
