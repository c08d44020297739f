//! What the ticks told, as counters since the start: what is pushed as what was added
//! since the last tick is scraped as how much there is by now.
//!
//! Ends and beginnings are kept by remote host as the ticks tell them, of so many hosts
//! that something happened to last as `hosts.max` lets be apart. A host that comes back
//! after its place was taken begins anew, which is to Prometheus what a restart is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::help;
use super::text::{Families, Unit};
use crate::config::Report;
use crate::flow::{Direction, Failure, Protocol, Traffic};
use crate::hosts::Remote;
use crate::hosts::select::HostActivity;
use crate::report::{Snapshot, TableSize};
use crate::telemetry::Kind;

/// A network namespace's name; `None` for the daemon's own.
type NetnsName = Option<Arc<str>>;

/// Of all ticks so far.
#[derive(Debug)]
pub(crate) struct Totals {
    /// Hosts told apart in a namespace.
    most: usize,
    ticks: u64,
    namespaces: BTreeMap<NetnsName, Namespace>,
}

#[derive(Debug, Default)]
struct Namespace {
    table: Option<TableSize>,
    /// Hosts seen in the last tick, and those of them that were folded.
    seen: Option<(u64, u64)>,
    kernel: BTreeMap<&'static str, u64>,
    hosts: HashMap<Arc<str>, Host>,
}

#[derive(Debug, Default)]
struct Host {
    /// The tick in which something happened last.
    last: u64,
    ends: BTreeMap<(Direction, Protocol), Ends>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    opened: u64,
    closed: u64,
    failed: [u64; Failure::ALL.len()],
    sent: Traffic,
    received: Traffic,
    durations: u64,
    lasted_us: u64,
}

impl Totals {
    /// Nothing so far; so many hosts told apart in each namespace.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            ticks: 0,
            namespaces: BTreeMap::new(),
        }
    }

    /// Ticks that were told of.
    pub(crate) const fn ticks(&self) -> u64 {
        self.ticks
    }

    /// Adds a tick. What it tells nothing of stays as it was.
    fn add(&mut self, snapshots: &[Snapshot]) {
        self.ticks += 1;
        for snapshot in snapshots {
            let of = self.namespaces.entry(snapshot.netns.clone()).or_default();
            of.table = snapshot.table;
            let selection = &snapshot.connections;
            of.seen = Some((selection.hosts, selection.folded));
            for &(name, delta) in &snapshot.kernel {
                *of.kernel.entry(name).or_default() += delta;
            }
            for activity in &selection.activities {
                of.count(activity, self.ticks);
            }
            of.forget(self.most);
        }
    }

    /// Writes what `report` lets be told.
    pub(super) fn tell(&self, report: &Report, families: &mut Families) {
        if report.connections {
            self.gauge(families, "conntrack_hosts", |of| Some(of.seen?.0));
            self.gauge(families, "conntrack_hosts_folded", |of| Some(of.seen?.1));
        }
        if report.rates {
            self.ends(families);
        }
        if report.traffic {
            self.traffic(families);
        }
        if report.durations {
            self.durations(families);
        }
        if report.table {
            self.gauge(families, "conntrack_table_entries", |of| {
                Some(of.table?.entries)
            });
            self.gauge(families, "conntrack_table_limit", |of| of.table?.limit);
            for (netns, of) in &self.namespaces {
                for (counter, &total) in &of.kernel {
                    let name = format!("conntrack_table_{counter}");
                    families
                        .family(&name, Kind::Count, help::of(&name))
                        .add(labels(netns, []), total);
                }
            }
        }
    }

    fn gauge(&self, families: &mut Families, name: &str, of: impl Fn(&Namespace) -> Option<u64>) {
        let family = families.family(name, Kind::Gauge, help::of(name));
        for (netns, namespace) in &self.namespaces {
            if let Some(value) = of(namespace) {
                family.add(labels(netns, []), value);
            }
        }
    }

    fn ends(&self, families: &mut Families) {
        for name in ["conntrack_opened", "conntrack_closed", "conntrack_failed"] {
            families.family(name, Kind::Count, help::of(name));
        }
        for (netns, host, direction, protocol, ends) in self.each() {
            let (host, direction) = (("remote_host", host), ("direction", direction.as_str()));
            let mut add = |name: &str, last, number| {
                families
                    .family(name, Kind::Count, help::of(name))
                    .add(labels(netns, [host, direction, last]), number);
            };
            let protocol = ("protocol", protocol.as_str());
            add("conntrack_opened", protocol, ends.opened);
            add("conntrack_closed", protocol, ends.closed);
            for (failure, &number) in Failure::ALL.iter().zip(&ends.failed) {
                if number > 0 {
                    add("conntrack_failed", ("reason", failure.as_str()), number);
                }
            }
        }
    }

    fn traffic(&self, families: &mut Families) {
        let (bytes, packets) = ("conntrack_bytes", "conntrack_packets");
        for name in [bytes, packets] {
            families.family(name, Kind::Count, help::of(name));
        }
        for (netns, host, .., ends) in self.each() {
            for (way, of) in [("sent", ends.sent), ("received", ends.received)] {
                for (name, number) in [(bytes, of.bytes), (packets, of.packets)] {
                    families
                        .family(name, Kind::Count, help::of(name))
                        .add(labels(netns, [("remote_host", host), ("way", way)]), number);
                }
            }
        }
    }

    /// Their number and their sum, of which a mean can be made.
    fn durations(&self, families: &mut Families) {
        let (number, seconds) = ("conntrack_durations", "conntrack_duration_seconds");
        families.family(number, Kind::Count, help::of(number));
        families
            .family(seconds, Kind::Count, help::of(seconds))
            .of(Unit::Micros);
        for (netns, host, _, protocol, ends) in self.each() {
            for (name, value) in [(number, ends.durations), (seconds, ends.lasted_us)] {
                let protocol = ("protocol", protocol.as_str());
                families
                    .family(name, Kind::Count, help::of(name))
                    .add(labels(netns, [("remote_host", host), protocol]), value);
            }
        }
    }

    /// Everything that is kept by host.
    fn each(&self) -> impl Iterator<Item = (&NetnsName, &str, Direction, Protocol, &Ends)> {
        self.namespaces.iter().flat_map(|(netns, namespace)| {
            namespace.hosts.iter().flat_map(move |(name, host)| {
                (host.ends.iter()).map(move |(&(direction, protocol), ends)| {
                    (netns, &**name, direction, protocol, ends)
                })
            })
        })
    }
}

/// The labels, the namespace's in front where it is not the daemon's own.
fn labels<'a, const N: usize>(
    netns: &'a NetnsName,
    labels: [(&'a str, &'a str); N],
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let netns = netns.iter().map(|name| ("netns", &**name));
    netns.chain(labels)
}

impl Namespace {
    fn count(&mut self, of: &HostActivity, tick: u64) {
        let HostActivity { activity, .. } = of;
        let (durations, lasted) = activity.durations.total();
        let idle = Traffic::default();
        let has_traffic = activity.sent != idle || activity.received != idle;
        if activity.opened == 0
            && activity.closed == 0
            && durations == 0
            && !activity.has_failures()
            && !has_traffic
        {
            return;
        }
        let host = self.hosts.entry(Arc::clone(&of.host)).or_default();
        host.last = tick;
        let ends = host.ends.entry((of.direction, of.protocol)).or_default();
        ends.opened += activity.opened;
        ends.closed += activity.closed;
        for (sum, failed) in ends.failed.iter_mut().zip(activity.failed) {
            *sum += failed;
        }
        ends.sent.add(activity.sent);
        ends.received.add(activity.received);
        ends.durations += durations;
        ends.lasted_us += micros(lasted);
    }

    /// Lets those go to which nothing has happened for longest, until there are no more
    /// than `most`.
    fn forget(&mut self, most: usize) {
        let is_host = |name: &str| name != Remote::OTHER && name != Remote::PUBLIC;
        let mut lasts: Vec<_> = (self.hosts.iter())
            .filter(|(name, _)| is_host(name))
            .map(|(name, host)| (host.last, Arc::clone(name)))
            .collect();
        let surplus = lasts.len().saturating_sub(most);
        if surplus == 0 {
            return;
        }
        lasts.sort_unstable();
        for (_, name) in lasts.drain(..surplus) {
            self.hosts.remove(&name);
        }
    }
}

/// Seconds as microseconds.
fn micros(seconds: f64) -> u64 {
    let lasted = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    u64::try_from(lasted.as_micros()).unwrap_or(u64::MAX)
}

/// Where the ticks are told.
#[derive(Debug)]
pub(crate) struct Teller(watch::Sender<Totals>);

impl Teller {
    /// One, and where what it told can be read.
    pub(crate) fn new(most: usize) -> (Self, watch::Receiver<Totals>) {
        let (sender, receiver) = watch::channel(Totals::new(most));
        (Self(sender), receiver)
    }

    /// Tells of a tick, if there is anybody who reads.
    pub(crate) fn tell(&self, snapshots: &[Snapshot]) {
        if !self.0.is_closed() {
            self.0.send_modify(|totals| totals.add(snapshots));
        }
    }
}
