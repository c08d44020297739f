//! The agent's own counters: plain atomics, owned by the stage that counts, read
//! by the report once a tick.
//!
//! Every drop has a reason, and every reason is a variant of an enum, so that
//! the series of a drop counter are known beforehand.

mod admin;
mod collector;
mod listener;
mod output;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub use self::admin::{AdminCounters, AdminRefusal, HttpCounters};
pub use self::collector::{CollectError, CollectorCounters, Correction, EventKind, Mode};
pub use self::listener::{Closing, FrameDrop, ListenerCounters, Refusal, Shed};
pub use self::output::{LineDrop, OutputCounters, OutputError};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl From<u64> for Counter {
    fn from(total: u64) -> Self {
        Self(AtomicU64::new(total))
    }
}

impl Counter {
    /// Adds to it.
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    /// The total so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces it.
    pub fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    /// One more.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The present value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A closed set of reasons or kinds, each the value of a tag.
pub trait Reason: Copy + fmt::Debug + 'static {
    /// Every one, in the order of [`Reason::index`].
    const ALL: &'static [Self];

    /// Its place in [`Reason::ALL`].
    fn index(self) -> usize;

    /// The tag's value.
    fn as_str(self) -> &'static str;
}

/// Which one of a closed set holds now, if any does.
pub struct Present<R> {
    /// One more than its place, 0 for none.
    place: AtomicUsize,
    of: PhantomData<R>,
}

impl<R> Default for Present<R> {
    fn default() -> Self {
        Self {
            place: AtomicUsize::default(),
            of: PhantomData,
        }
    }
}

impl<R: Reason> fmt::Debug for Present<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl<R: Reason> Present<R> {
    /// Replaces it.
    pub fn set(&self, present: Option<R>) {
        let place = present.map_or(0, |present| present.index() + 1);
        self.place.store(place, Ordering::Relaxed);
    }

    /// The one that holds.
    #[must_use]
    pub fn get(&self) -> Option<R> {
        let place = self.place.load(Ordering::Relaxed);
        R::ALL.get(place.checked_sub(1)?).copied()
    }
}

/// Declares an enum of reasons with the text that each has as a tag.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $crate::telemetry::Reason for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn index(self) -> usize {
                self as usize
            }

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}
pub(crate) use reasons;

/// A counter for each reason.
pub struct PerReason<R> {
    counters: Box<[Counter]>,
    reason: PhantomData<R>,
}

impl<R: Reason> Default for PerReason<R> {
    fn default() -> Self {
        Self {
            counters: R::ALL.iter().map(|_| Counter::default()).collect(),
            reason: PhantomData,
        }
    }
}

impl<R: Reason> fmt::Debug for PerReason<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                R::ALL
                    .iter()
                    .map(|&reason| (reason.as_str(), self.get(reason))),
            )
            .finish()
    }
}

impl<R: Reason> PerReason<R> {
    /// Adds to one reason's counter.
    pub fn add(&self, reason: R, number: u64) {
        if let Some(counter) = self.counters.get(reason.index()) {
            counter.add(number);
        }
    }

    /// One reason's total.
    #[must_use]
    pub fn get(&self, reason: R) -> u64 {
        self.counters.get(reason.index()).map_or(0, Counter::get)
    }

    /// The total of all reasons.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counters.iter().map(Counter::get).sum()
    }
}

/// Whether a sample is a total so far or a present value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A total: the report sends what was added since the last tick.
    Count,
    /// A present value.
    Gauge,
}

/// One number of the agent's own, as the report and the admin socket read it.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Name, below `conntally.`.
    pub name: &'static str,
    /// Total or present value.
    pub kind: Kind,
    /// Tags: keys and values.
    pub tags: &'a [(&'static str, &'a str)],
    /// The number.
    pub value: u64,
}

/// Every counter of the agent, with the names of listeners and outputs.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    /// Each collector's, by the name of its network namespace; `None` for the daemon's
    /// own, which comes first.
    pub collectors: Vec<(Option<Arc<str>>, Arc<CollectorCounters>)>,
    /// Each listener's, by its address.
    pub listeners: Vec<(String, Arc<ListenerCounters>)>,
    /// Each output's, by its address, those of a group together.
    pub outputs: Vec<(String, Arc<OutputCounters>)>,
    /// The admin socket's.
    pub admin: Arc<AdminCounters>,
    /// The HTTP endpoint's, where there is one.
    pub http: Option<Arc<HttpCounters>>,
}

impl Telemetry {
    /// Shows each sample to `each`, always in the same order.
    pub fn visit(&self, each: &mut dyn FnMut(Sample<'_>)) {
        let mut of = Visit { each, tag: None };
        for (netns, collector) in &self.collectors {
            of.tag = netns.as_deref().map(|name| ("netns", name));
            of.collector(collector);
        }
        for (name, listener) in &self.listeners {
            of.tag = Some(("listener", name));
            of.gauge("listener.connections", listener.connections.get());
            of.count("listener.accepted", &listener.accepted);
            of.reasons("listener.refused", &listener.refused);
            of.reasons("listener.closed", &listener.closed);
            of.count("listener.frames", &listener.frames);
            of.count("listener.bytes", &listener.bytes);
            of.count("listener.lines", &listener.lines);
            of.count("listener.lines_filtered", &listener.filtered);
            of.reasons("listener.lines_dropped", &listener.dropped);
            of.reasons("listener.lines_dropped", &listener.shed);
            of.reasons("listener.frames_dropped", &listener.frames_dropped);
            of.count("listener.waits", &listener.waits);
            of.count("listener.throttled", &listener.throttled);
            of.count("listener.throttled_us", &listener.throttled_us);
            of.count("listener.pressure_waits", &listener.pressure_waits);
            of.count("listener.pressure_us", &listener.pressure_us);
            of.count("listener.abandoned_bytes", &listener.abandoned_bytes);
            of.count("listener.kernel_drops", &listener.kernel_drops);
            if name.starts_with("unix") {
                of.count("listener.rebinds", &listener.rebinds);
                of.gauge("listener.path_lost", listener.path_lost.get());
            }
            let buffer = listener.receive_buffer_bytes.get();
            if buffer > 0 {
                of.gauge("listener.receive_buffer_bytes", buffer);
            }
        }
        for (name, output) in &self.outputs {
            of.tag = Some(("output", name));
            of.count("output.lines", &output.accepted);
            of.count("output.lines_filtered", &output.filtered);
            of.count("output.lines_sent", &output.sent);
            of.count("output.lines_merged", &output.merged);
            of.reasons("output.lines_dropped", &output.dropped);
            of.count("output.bytes_dropped_queue", &output.dropped_queue_bytes);
            of.count("output.bytes_dropped_writer", &output.dropped_writer_bytes);
            of.count("output.lines_spooled", &output.spooled);
            of.gauge("output.lines_held", output.held());
            of.count("output.lines_at_risk", &output.at_risk);
            of.count("output.contexts_merged", &output.merged_contexts);
            of.gauge("output.backlog_contexts", output.backlog_contexts.get());
            of.gauge("output.backlog_bytes", output.backlog_bytes.get());
            of.count("output.payloads", &output.payloads);
            of.count("output.bytes", &output.bytes);
            of.count("output.throttled", &output.throttled);
            of.count("output.throttled_us", &output.throttled_us);
            of.count("output.connects", &output.connects);
            of.reasons("output.errors", &output.errors);
        }
        of.tag = None;
        of.count("admin.requests", &self.admin.requests);
        of.reasons("admin.refused", &self.admin.refused);
        if let Some(http) = &self.http {
            of.count("http.requests", &http.doors.requests);
            of.reasons("http.refused", &http.doors.refused);
            of.count("http.looks", &http.looks);
            of.reasons("http.look_errors", &http.look_errors);
        }
    }
}

struct Visit<'a> {
    each: &'a mut dyn FnMut(Sample<'_>),
    tag: Option<(&'static str, &'a str)>,
}

impl Visit<'_> {
    fn sample(&mut self, name: &'static str, kind: Kind, value: u64) {
        (self.each)(Sample {
            name,
            kind,
            tags: self.tag.as_slice(),
            value,
        });
    }

    fn collector(&mut self, collector: &CollectorCounters) {
        self.count("collector.dumps", &collector.dumps);
        self.count("collector.skipped_ticks", &collector.skipped);
        self.count("collector.undecoded", &collector.undecoded);
        self.gauge("collector.dump.entries", collector.last_entries.get());
        self.gauge(
            "collector.dump.duration_us",
            collector.last_dump_micros.get(),
        );
        self.reasons("collector.errors", &collector.errors);
        self.by("collector.events", "kind", &collector.events);
        self.count("collector.events_lost", &collector.events_lost);
        self.count("collector.overruns", &collector.overruns);
        self.count("collector.resyncs", &collector.resyncs);
        self.count("collector.flows_opened", &collector.flows_opened);
        self.count("collector.flows_picked_up", &collector.flows_picked_up);
        self.count("collector.flows_found", &collector.flows_found);
        self.count("collector.flows_closed", &collector.flows_closed);
        self.count("collector.flows_failed", &collector.flows_failed);
        self.count("collector.flows_forgotten", &collector.flows_forgotten);
        self.by("collector.corrections", "kind", &collector.corrections);
        self.count("collector.mode_changes", &collector.mode_changes);
        self.gauge("collector.flows", collector.flows.get());
        self.gauge(
            "collector.flow_table_bytes",
            collector.flow_table_bytes.get(),
        );
        self.gauge("collector.paused", collector.paused.get());
        self.gauge(
            "collector.event_buffer_bytes",
            collector.event_buffer_bytes.get(),
        );
    }

    fn count(&mut self, name: &'static str, counter: &Counter) {
        self.sample(name, Kind::Count, counter.get());
    }

    fn gauge(&mut self, name: &'static str, value: u64) {
        self.sample(name, Kind::Gauge, value);
    }

    fn reasons<R: Reason>(&mut self, name: &'static str, counters: &PerReason<R>) {
        self.by(name, "reason", counters);
    }

    fn by<R: Reason>(&mut self, name: &'static str, key: &'static str, counters: &PerReason<R>) {
        for &reason in R::ALL {
            let with_reason = (key, reason.as_str());
            let both = self.tag.map(|tag| [tag, with_reason]);
            (self.each)(Sample {
                name,
                kind: Kind::Count,
                tags: both.as_ref().map_or(&[with_reason], |both| &both[..]),
                value: counters.get(reason),
            });
        }
    }
}
