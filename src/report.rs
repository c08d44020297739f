//! Rows become metric lines. Every metric name is in this file, but for the
//! agent's own, which [`Telemetry::visit`] and its callers name, and for those that
//! Datadog's dashboards read, which are in `report/clients.rs`.
//!
//! ## Metrics
//! Below `prefix` (`conntrack`): `connections`, `opened`, `closed`, `failed`,
//! `bytes`, `packets`, `duration`, `hosts`, `hosts.folded`, `table.entries`,
//! `table.limit`, `table.*`. Below `conntally`: `collector.source`,
//! `collector.mode`, `uptime_seconds`, `memory.resident_bytes`, and what
//! [`Telemetry`] counts. Below `datadog.dogstatsd.client`: what the outputs have sent and
//! dropped, by transport.

mod activities;
mod clients;
mod connections;
mod deltas;
mod lane;
mod latest;
mod namespace;
mod pace;
mod packed;
mod print;
mod sent;
#[cfg(test)]
mod tests;
pub mod text;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::clients::Clients;
pub(crate) use self::connections::ZERO_FOR;
use self::deltas::Deltas;
use self::lane::Lane;
pub use self::latest::{Latest, Tick};
use self::pace::Pace;
pub use self::print::print;
pub use self::sent::SentSeries;
use crate::config;
use crate::hosts::select::Selection;
use crate::output::Fanout;
use crate::telemetry::{Kind, Mode, Reason, Sample, Telemetry};

/// `[report] prefix` is put before these.
mod name {
    pub(super) const CONNECTIONS: &str = "connections";
    pub(super) const OPENED: &str = "opened";
    pub(super) const CLOSED: &str = "closed";
    pub(super) const FAILED: &str = "failed";
    pub(super) const BYTES: &str = "bytes";
    pub(super) const PACKETS: &str = "packets";
    /// Seconds.
    pub(super) const DURATION: &str = "duration";
    pub(super) const HOSTS: &str = "hosts";
    pub(super) const HOSTS_FOLDED: &str = "hosts.folded";
    pub(super) const TABLE: &str = "table";
    pub(super) const TABLE_ENTRIES: &str = "table.entries";
    pub(super) const TABLE_LIMIT: &str = "table.limit";
}

/// These are the agent's own: below `conntally`, whatever the prefix.
mod own {
    pub(super) const PREFIX: &str = "conntally";
    pub(super) const SOURCE: &str = "collector.source";
    pub(super) const MODE: &str = "collector.mode";
    pub(super) const UPTIME: &str = "uptime_seconds";
    pub(super) const RESIDENT: &str = "memory.resident_bytes";
}

/// Where connections are read from, now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The connection tracking table.
    Conntrack,
    /// The sockets of this host.
    Sockets,
    /// Nowhere.
    Off,
}

impl Reason for Source {
    const ALL: &'static [Self] = &[Self::Conntrack, Self::Sockets, Self::Off];

    fn index(self) -> usize {
        self as usize
    }

    fn as_str(self) -> &'static str {
        self.as_str()
    }
}

impl Source {
    /// The value of the `source` tag.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Conntrack => "conntrack",
            Self::Sockets => "sockets",
            Self::Off => "off",
        }
    }
}

/// How full the kernel's table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSize {
    /// Entries in it.
    pub entries: u64,
    /// Most that the kernel admits, where it tells.
    pub limit: Option<u64>,
}

/// What a tick found in one network namespace.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The namespace's name, which tags what is sent of it; `None` for the daemon's own.
    pub netns: Option<Arc<str>>,
    /// Connections by series, and what happened to them since the last snapshot.
    pub connections: Selection,
    /// The table's size, where the source is a table.
    pub table: Option<TableSize>,
    /// The kernel's own counters below `table.`: what was added since the last tick.
    pub kernel: Vec<(&'static str, u64)>,
}

/// The daemon itself.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// When it started.
    pub started: Instant,
    /// Resident memory, bytes, where known.
    pub resident: Option<u64>,
}

/// The process's resident memory in bytes.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    resident_in(&fs::read_to_string("/proc/self/status").ok()?)
}

/// The resident memory in bytes that a `/proc/PID/status` tells of.
pub(crate) fn resident_in(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Turns each tick's numbers into lines, and remembers what the next tick needs:
/// series that may have vanished, totals so far.
#[derive(Debug)]
pub struct Reporter {
    lanes: Vec<Lane>,
    pace: Option<Arc<Pace>>,
    settings: config::Report,
    deltas: Deltas,
    clients: Clients,
    /// Of each collector, in their order.
    reported: Vec<Reported>,
    name: String,
    /// What the agent's counters were at one moment.
    values: Vec<u64>,
}

impl Reporter {
    /// Reports to `tagged` in full, and to `plain`, outputs without tags, by
    /// remote host and state alone. `tags` are on every line to `tagged`; to
    /// `plain` they can't go, for there the values of tags make up names.
    #[must_use]
    pub fn new(settings: &config::Report, tags: &[String], tagged: Fanout, plain: Fanout) -> Self {
        let mut lanes = Vec::new();
        if !tagged.is_empty() {
            lanes.push(Lane::tagged(&settings.prefix, tags, tagged));
        }
        if !plain.is_empty() {
            lanes.push(Lane::plain(&settings.prefix, plain));
        }
        Self {
            lanes,
            pace: None,
            settings: settings.clone(),
            deltas: Deltas::default(),
            clients: Clients::default(),
            reported: Vec::new(),
            name: String::new(),
            values: Vec::new(),
        }
    }

    /// The same, that tells Datadog's dashboards of these outputs, which are in the order
    /// of their counters.
    #[must_use]
    pub fn telling_of<'a>(mut self, outputs: impl IntoIterator<Item = &'a config::Output>) -> Self {
        self.clients = Clients::new(outputs);
        self
    }

    /// The same, that takes up to `most` for a long report, and as little as a UDP receiver
    /// bears once it is told to `hurry`.
    #[must_use]
    pub fn paced(mut self, most: Duration, hurry: CancellationToken) -> Self {
        let pace = Arc::new(Pace::new(most, hurry));
        for lane in &mut self.lanes {
            lane.keep(&pace);
        }
        self.pace = Some(pace);
        self
    }

    /// The same, that tells as 0 what another process sent of late and is gone now.
    #[must_use]
    pub fn remembering(mut self, sent: &SentSeries, now: Instant) -> Self {
        for lane in &mut self.lanes {
            lane.remember(sent, now);
        }
        self
    }

    /// What it sent of late.
    #[must_use]
    pub fn sent(&self, now: Instant) -> SentSeries {
        let mut sent = SentSeries::default();
        for lane in &self.lanes {
            lane.tell_sent(&mut sent, now);
        }
        sent
    }

    /// One tick's lines, always in the same order, of snapshots of different
    /// namespaces. Without a namespace's snapshot, as after a dump that failed, its
    /// connections keep the values they have: what is unknown is not zero. One that
    /// is gone is told by an empty snapshot. Gives the runtime a turn every few
    /// hundred lines.
    pub async fn report(
        &mut self,
        snapshots: &[Snapshot],
        telemetry: &Telemetry,
        process: &Process,
        now: Instant,
    ) {
        if self.lanes.is_empty() {
            return;
        }
        if let Some(pace) = &self.pace {
            let lines: usize = (snapshots.iter())
                .map(|snapshot| expected(&snapshot.connections, &self.settings))
                .sum();
            pace.begin(lines * self.lanes.len());
        }
        for snapshot in snapshots {
            self.connections(snapshot, now).await;
            if self.settings.table {
                self.table(snapshot);
            }
        }
        if self.settings.telemetry {
            yield_now().await;
            self.process(process, telemetry, now);
            self.telemetry(telemetry);
        }
    }

    /// Counters before gauges: a gauge that finds an output full is told again in
    /// the next tick, and an increment is not.
    async fn connections(&mut self, snapshot: &Snapshot, now: Instant) {
        let selection = &snapshot.connections;
        for lane in &mut self.lanes {
            let lane = lane.namespace(snapshot.netns.as_ref());
            lane.activities(&selection.activities, &self.settings).await;
            if self.settings.connections {
                lane.connections(&selection.rows, now).await;
                lane.gauge(name::HOSTS, selection.hosts);
                lane.gauge(name::HOSTS_FOLDED, selection.folded);
            }
        }
    }

    fn table(&mut self, snapshot: &Snapshot) {
        let netns = snapshot.netns.as_ref();
        if let Some(table) = snapshot.table {
            for lane in &mut self.lanes {
                let lane = lane.namespace(netns);
                lane.gauge(name::TABLE_ENTRIES, table.entries);
                if let Some(limit) = table.limit {
                    lane.gauge(name::TABLE_LIMIT, limit);
                }
            }
        }
        for &(counter, delta) in &snapshot.kernel {
            self.name.clear();
            for part in [name::TABLE, ".", counter] {
                self.name.push_str(part);
            }
            if self
                .deltas
                .is_news(netns.map(|name| &**name), &self.name, delta)
            {
                for lane in &mut self.lanes {
                    lane.namespace(netns).count(&self.name, delta);
                }
            }
        }
    }

    fn process(&mut self, process: &Process, telemetry: &Telemetry, now: Instant) {
        let collectors = &telemetry.collectors;
        self.reported
            .resize_with(collectors.len(), Reported::default);
        for ((netns, counters), reported) in collectors.iter().zip(&mut self.reported) {
            let told = |name, key| Told {
                lanes: &self.lanes,
                name,
                key,
                netns: netns.as_deref(),
            };
            let source = counters.source.get().unwrap_or(Source::Off);
            told(own::SOURCE, "source").present(Some(source), &mut reported.sources);
            told(own::MODE, "mode").present(counters.mode.get(), &mut reported.modes);
        }
        let uptime = now.duration_since(process.started).as_secs();
        for lane in &self.lanes {
            lane.own_gauge(own::UPTIME, &[], uptime);
            if let Some(bytes) = process.resident {
                lane.own_gauge(own::RESIDENT, &[], bytes);
            }
        }
    }

    /// Reads every counter before the first line goes: the lines are counted too, and
    /// what an output counts must add up.
    fn telemetry(&mut self, telemetry: &Telemetry) {
        let Self {
            lanes,
            deltas,
            clients,
            values,
            ..
        } = self;
        values.clear();
        telemetry.visit(&mut |sample: Sample<'_>| values.push(sample.value));
        let told = clients.totals(telemetry);
        let mut values = values.drain(..);
        let mut send = |sample: Sample<'_>| match sample.kind {
            Kind::Gauge => {
                for lane in &*lanes {
                    lane.own_gauge(sample.name, sample.tags, sample.value);
                }
            }
            Kind::Count => {
                if let Some(delta) = deltas.advance(&sample) {
                    for lane in &*lanes {
                        lane.own_count(sample.name, sample.tags, delta);
                    }
                }
            }
        };
        telemetry.visit(&mut |sample: Sample<'_>| {
            let value = values.next().unwrap_or(sample.value);
            send(Sample { value, ..sample });
        });
        clients::send(&told, deltas, lanes);
    }
}

/// How many lines there will be of it, about: rather too many.
fn expected(selection: &Selection, settings: &config::Report) -> usize {
    let of_activity = [
        (settings.rates, 2),
        (settings.traffic, 4),
        (settings.durations, 2),
    ];
    let lines: usize = of_activity
        .iter()
        .map(|&(is_told, lines)| if is_told { lines } else { 0 })
        .sum();
    lines * selection.activities.len() + selection.rows.len()
}

/// What one collector was reported to be, so that it is reported as 0 after a change.
#[derive(Debug, Default)]
struct Reported {
    sources: [bool; Source::ALL.len()],
    modes: [bool; Mode::ALL.len()],
}

/// A gauge of which one of several values holds in a network namespace.
struct Told<'a> {
    lanes: &'a [Lane],
    name: &'a str,
    key: &'a str,
    netns: Option<&'a str>,
}

impl Told<'_> {
    /// Sends 1 for the one value that holds now, and 0 for those that held before.
    fn present<R: Reason + PartialEq>(&self, now: Option<R>, reported: &mut [bool]) {
        for (&value, reported) in R::ALL.iter().zip(reported) {
            let holds = now == Some(value);
            *reported |= holds;
            if !*reported {
                continue;
            }
            let of_value = [(self.key, value.as_str())];
            let both = self.netns.map(|netns| [("netns", netns), of_value[0]]);
            let tags = both.as_ref().map_or(&of_value[..], |both| &both[..]);
            for lane in self.lanes {
                lane.own_gauge(self.name, tags, u64::from(holds));
            }
        }
    }
}
