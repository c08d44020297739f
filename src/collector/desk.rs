//! Where dumps and events come together: they are placed, counted, and answered for.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::command::{TABLE_PAGE, TablePage, TableRow};
use super::ending::{Detail, end_of, is_over};
use super::journal::{Ended, Journal};
use super::ledger::{Books, Gone, Hearing, Ledger, Totals, marks_of};
use super::mode::Pace;
use super::source::{Look, Sink};
use super::{Answer, Count};
use crate::config::{self, Config};
use crate::conntrack::sysctl::{Timeouts, events_enabled};
use crate::conntrack::{Drained as Batch, Events, Happening, Subscription, TableSize};
use crate::flow::key::KeyHasher;
use crate::flow::{Entry, nanoseconds_since_epoch};
use crate::hosts::select::Selector;
use crate::hosts::{Hosts, Remote};
use crate::report::{self, Snapshot, Source};
use crate::telemetry::{CollectorCounters, EventKind, Mode, Reason as _};

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
    counters: Arc<CollectorCounters>,
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

    /// Listens to as much as the mode wants, where connection tracking is the source.
    pub(super) fn tune(&mut self) {
        let wanted = match self.source {
            Some(Source::Sockets | Source::Off) => Hearing::Nothing,
            _ if self.ledger.is_none() || self.crowded => Hearing::Nothing,
            _ => self.pace.hearing(),
        };
        let subscription = match wanted {
            Hearing::Nothing => {
                self.close_events();
                return;
            }
            Hearing::Ends => Subscription::Ends,
            Hearing::Everything => Subscription::Full,
        };
        let outcome = match &mut self.events {
            Some(events) => events.subscribe(subscription),
            none => Events::open(&self.config, subscription).map(|events| {
                *none = Some(events);
            }),
        };
        if let Err(error) = outcome {
            self.close_events();
            if !std::mem::replace(&mut self.told, true) {
                self.counters.errors.add(error.reason(), 1);
                warn!(%error, "no events can be had: connections that last less than a tick are not seen");
            }
        }
    }

    fn close_events(&mut self) {
        if self.events.is_some() {
            self.publish();
            self.events = None;
            self.drops = 0;
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.hear(Hearing::Nothing);
        }
    }

    /// What is heard now.
    fn hearing(&self) -> Hearing {
        match self.events.as_ref().map(Events::subscription) {
            None => Hearing::Nothing,
            Some(Subscription::Ends) => Hearing::Ends,
            Some(Subscription::Full) => Hearing::Everything,
        }
    }

    /// Reads the events that wait.
    pub(super) fn drain(&mut self) -> Drained {
        let Self {
            events: Some(events),
            ledger: Some(ledger),
            count,
            counters,
            ..
        } = self
        else {
            return Drained::Nothing;
        };
        let now = nanoseconds_since_epoch();
        let mut kinds = [0_u64; EventKind::ALL.len()];
        let mut books = Books { count, counters };
        let drained = events.drain(DRAIN_BYTES, &mut |event| {
            kinds[match event.happening {
                Happening::New => EventKind::New,
                Happening::Update => EventKind::Update,
                Happening::Destroy => EventKind::Destroy,
            } as usize] += 1;
            ledger.event(event, now, &mut books);
        });
        for (&kind, count) in EventKind::ALL.iter().zip(kinds) {
            counters.events.add(kind, count);
        }
        self.record_ends();
        let counters = &self.counters;
        match drained {
            Ok(drained) => {
                counters.undecoded.add(drained.undecoded);
                // What it told is lost as if there had been no room.
                self.losses.in_dump |= drained.undecoded > 0;
                if drained.overruns > 0 {
                    self.overrun(drained.overruns);
                }
                match drained {
                    Batch { is_dry: false, .. } => Drained::Partly,
                    Batch { bytes: 0, .. } => Drained::Nothing,
                    _ => Drained::Wholly,
                }
            }
            Err(error) => {
                counters.errors.add(error.reason(), 1);
                warn!(%error, "events cannot be read: listening anew");
                self.losses.in_dump = true;
                self.close_events();
                Drained::Nothing
            }
        }
    }

    /// Reads all events that wait now, and few of those that come meanwhile: no more can
    /// wait than the buffer holds.
    pub(super) fn catch_up(&mut self) {
        let mut rest = self.events.as_ref().map_or(0, Events::buffer_bytes) / DRAIN_BYTES + 1;
        while self.drain() == Drained::Partly && rest > 0 {
            rest -= 1;
        }
    }

    /// Events were lost. With a larger buffer fewer may be; where it cannot grow it
    /// counts as too much.
    fn overrun(&mut self, overruns: u64) {
        self.counters.overruns.add(overruns);
        self.losses.in_dump = true;
        let grown = self.events.as_mut().and_then(Events::grow);
        match grown {
            Some(bytes) => info!(
                bytes,
                "events were lost for want of room: the buffer was enlarged"
            ),
            None => self.losses.in_second = true,
        }
    }

    /// Once a second: looks whether too much is listened to; whether that changed.
    pub(super) fn second(&mut self, now: Instant) -> bool {
        let overran = std::mem::take(&mut self.losses.in_second);
        let Some(message) = self.pace.second(overran, now) else {
            return false;
        };
        warn!("{message}");
        self.why = message;
        self.counters.mode_changes.add(1);
        self.tune();
        true
    }

    /// Whether events were lost since the last dump began, or there was no room for what
    /// they told, so that the next is due.
    pub(super) fn has_lost(&self) -> bool {
        self.losses.in_dump || self.ledger.as_ref().is_some_and(Ledger::is_overfull)
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

    /// Hands the ends of flows to those who want to know.
    fn record_ends(&mut self) {
        let Some(ledger) = &mut self.ledger else {
            return;
        };
        let at = nanoseconds_since_epoch() / 1_000_000;
        for gone in ledger.take_ends() {
            self.journal.record(ended(gone, at, &self.count.hosts));
        }
    }

    /// Keeps ends only where somebody wants to know.
    pub(super) fn watch_ends(&mut self) {
        let follows = self.journal.is_followed();
        if let Some(ledger) = &mut self.ledger {
            ledger.watch_ends(follows);
        }
    }

    /// Lets the next dump note what is over but still in the table.
    pub(super) fn look_for_over(&mut self) {
        self.over = Some(Vec::new());
    }

    fn note_over(&mut self, Entry { flow, details }: &Entry) {
        let Some(placement) = self.count.hosts.place(flow, &self.count.local) else {
            return;
        };
        let Some(ledger) = &self.ledger else {
            return;
        };
        let ended = Ended {
            at: self.now / 1_000_000,
            key: ledger.keys().key(&flow.original, flow.protocol, flow.zone),
            tuples: Some((flow.original, flow.reply)),
            host: self.count.hosts.host_name(placement.remote),
            address: Some(placement.address),
            protocol: flow.protocol,
            zone: flow.zone,
            direction: placement.direction,
            port: placement.port,
            end: end_of(flow.protocol, flow.state, marks_of(flow, details)),
            duration: None,
            traffic: details.traffic,
        };
        if let Some(over) = self.over.as_mut().filter(|over| over.len() < MOST_OVER) {
            over.push(ended);
        }
    }

    /// Tells of what was noted; of how many.
    pub(super) fn announce_over(&mut self) -> u64 {
        let over = self.over.take().unwrap_or_default();
        let journal = &mut self.journal;
        over.into_iter()
            .map(|ended| u64::from(journal.announce(ended)))
            .sum()
    }

    /// Pauses: nothing is listened to.
    pub(super) fn rest(&mut self) {
        self.close_events();
    }

    /// What is followed, bytes that it takes, and the buffer of the event socket.
    pub(super) fn sizes(&self) -> (usize, usize, Option<usize>) {
        let (flows, bytes) = self.ledger.as_ref().map_or((0, 0), Ledger::size);
        (flows, bytes, self.events.as_ref().map(Events::buffer_bytes))
    }

    /// A page of the flow table.
    pub(super) fn page(&self, from: u64) -> TablePage {
        let Some(ledger) = &self.ledger else {
            return TablePage::default();
        };
        let (flows, next) = ledger.page(from, TABLE_PAGE);
        let rows = flows.into_iter().map(|kept| TableRow {
            key: kept.key(),
            row: kept.row.number(),
            state: kept.state().as_str(),
            flags: kept.marks.names(),
        });
        TablePage {
            rows: rows.collect(),
            next,
        }
    }

    /// The mode that what is heard comes to.
    pub(super) fn mode(&self) -> Mode {
        match self.hearing() {
            Hearing::Nothing => Mode::Dump,
            Hearing::Ends => Mode::Hybrid,
            Hearing::Everything => Mode::Events,
        }
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

/// A flow that ended, as the journal has it.
fn ended(gone: Gone, at: u64, hosts: &Hosts) -> Ended {
    let Gone { series, tuples, .. } = gone;
    let address = match (series.remote, &tuples) {
        (Remote::Address(address) | Remote::Public(address), _) => Some(address),
        (_, Some((original, _))) if gone.outward => Some(original.dst),
        (_, Some((original, _))) => Some(original.src),
        _ => None,
    };
    Ended {
        at,
        key: gone.key,
        tuples,
        host: hosts.host_name(series.remote),
        address,
        protocol: gone.protocol,
        zone: gone.zone,
        direction: series.direction,
        port: series.port,
        end: gone.end,
        duration: gone.lasted.map(Duration::from_nanos),
        traffic: gone.traffic,
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
