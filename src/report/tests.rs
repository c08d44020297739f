use std::slice;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::{Format, OnFull};
use crate::flow::ConnectionState::{self, Closing, Open, Opening};
use crate::flow::{Direction, Protocol, Traffic};
use crate::hosts::select::{HostActivity, Row};
use crate::output::format::Encoding;
use crate::output::payload::{Delimiter, Shape};
use crate::output::queue::{self, Outlet};
use crate::tally::Activity;
use crate::telemetry::{CollectorCounters, OutputCounters};

mod activities;
mod clients;
mod connections;
mod dashboards;
mod durations;
mod namespaces;
mod own;
mod pace;
mod strict;

const TICK: Duration = Duration::from_secs(10);

/// One output of the lane: what the reporter writes to, and what comes out.
fn output(format: Format, limit: usize) -> (Fanout, Outlet) {
    let settings = queue::Settings {
        capacity: 64 << 20,
        on_full: OnFull::Drop,
        encoding: Encoding::new(format, ""),
        ..queue::Settings::of(Shape {
            limit,
            delimiter: Delimiter::Newline,
        })
    };
    let (inlet, outlet) = queue::queue(settings, Arc::new(OutputCounters::default()));
    (Fanout::new(vec![inlet]), outlet)
}

fn bytes(outlet: &mut Outlet) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(chunk) = outlet.drain() {
        bytes.extend_from_slice(chunk.unwritten());
        outlet.release(chunk);
    }
    bytes
}

fn lines(outlet: &mut Outlet) -> Vec<String> {
    let text = String::from_utf8(bytes(outlet)).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(str::to_owned).collect()
}

fn row(host: &str, state: ConnectionState, connections: u64) -> Row {
    Row {
        host: host.into(),
        direction: Direction::Outbound,
        protocol: Protocol::Tcp,
        port: None,
        state: state.as_str(),
        connections,
        general: state,
    }
}

fn snapshot(mut rows: Vec<Row>) -> Snapshot {
    rows.sort();
    Snapshot {
        connections: Selection {
            activities: Vec::new(),
            rows,
            hosts: 7,
            folded: 2,
        },
        ..Snapshot::default()
    }
}

fn activity(host: &str, direction: Direction, protocol: Protocol) -> HostActivity {
    HostActivity {
        host: host.into(),
        direction,
        protocol,
        activity: Activity::default(),
    }
}

/// A snapshot of activities alone, in the order that they are due.
fn active(mut activities: Vec<HostActivity>) -> Snapshot {
    let order = |of: &HostActivity| (Arc::clone(&of.host), of.direction, of.protocol);
    activities.sort_by_key(order);
    Snapshot {
        connections: Selection {
            activities,
            ..Selection::default()
        },
        ..Snapshot::default()
    }
}

/// Nothing at all is reported with these.
fn nothing() -> config::Report {
    config::Report {
        connections: false,
        rates: false,
        table: false,
        telemetry: false,
        ..config::Report::default()
    }
}

/// A reporter with an output of either kind, and its clock.
struct Bench {
    reporter: Reporter,
    tagged: Outlet,
    plain: Outlet,
    now: Instant,
    process: Process,
    telemetry: Telemetry,
}

impl Bench {
    fn new(settings: &config::Report, tags: &[&str]) -> Self {
        let output = || output(Format::Dogstatsd, 8192);
        Self::over(settings, tags, output(), output())
    }

    /// Over an output that has tags, and one that has none.
    fn over(
        settings: &config::Report,
        tags: &[&str],
        (tagged, tagged_outlet): (Fanout, Outlet),
        (plain, plain_outlet): (Fanout, Outlet),
    ) -> Self {
        let tags: Vec<_> = tags.iter().map(|&tag| tag.to_owned()).collect();
        let now = Instant::now();
        Self {
            reporter: Reporter::new(settings, &tags, tagged, plain),
            tagged: tagged_outlet,
            plain: plain_outlet,
            now,
            process: Process {
                started: now,
                resident: None,
            },
            telemetry: Telemetry {
                collectors: vec![(None, Arc::default())],
                ..Telemetry::default()
            },
        }
    }

    /// What the daemon's own collector counts.
    fn collector(&self) -> &CollectorCounters {
        &self.telemetry.collectors[0].1
    }

    /// Connections and nothing else.
    fn connections() -> Self {
        let settings = config::Report {
            table: false,
            telemetry: false,
            ..config::Report::default()
        };
        Self::new(&settings, &[])
    }

    /// The agent's own and nothing else.
    fn own() -> Self {
        let settings = config::Report {
            connections: false,
            table: false,
            ..config::Report::default()
        };
        Self::new(&settings, &[])
    }

    /// Ten seconds later, the lines for outputs with tags and for those without.
    async fn tick(&mut self, snapshot: Option<&Snapshot>) -> (Vec<String>, Vec<String>) {
        self.now += TICK;
        self.reporter
            .report(
                snapshot.map_or(&[], slice::from_ref),
                &self.telemetry,
                &self.process,
                self.now,
            )
            .await;
        (lines(&mut self.tagged), lines(&mut self.plain))
    }

    /// The same for rows, with tags, less the two lines on hosts.
    async fn rows(&mut self, rows: Vec<Row>) -> Vec<String> {
        let mut lines = self.tick(Some(&snapshot(rows))).await.0;
        assert_eq!(
            lines.split_off(lines.len() - 2),
            ["conntrack.hosts:7|g", "conntrack.hosts.folded:2|g"]
        );
        lines
    }
}

#[tokio::test]
async fn the_table_is_reported_with_the_kernels_counters() {
    let settings = config::Report {
        telemetry: false,
        connections: false,
        ..config::Report::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    let tick = |limit, drop| Snapshot {
        table: Some(TableSize { entries: 9, limit }),
        kernel: vec![("drop", drop), ("early_drop", 0)],
        ..Snapshot::default()
    };
    let (tagged, plain) = bench.tick(Some(&tick(Some(100), 3))).await;
    assert_eq!(
        tagged,
        [
            "conntrack.table.entries:9|g",
            "conntrack.table.limit:100|g",
            "conntrack.table.drop:3|c",
            "conntrack.table.early_drop:0|c",
        ]
    );
    assert_eq!(plain, tagged);
    let (tagged, _) = bench.tick(Some(&tick(None, 0))).await;
    assert_eq!(
        tagged,
        ["conntrack.table.entries:9|g", "conntrack.table.drop:0|c"]
    );
    let (tagged, _) = bench.tick(Some(&Snapshot::default())).await;
    assert!(tagged.is_empty());
}

#[tokio::test]
async fn the_prefix_is_put_before_connections_and_not_before_the_agents_own() {
    let settings = config::Report {
        prefix: "net.flows|".to_owned(),
        ..config::Report::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    let (tagged, _) = bench.tick(Some(&snapshot(vec![row("a", Open, 1)]))).await;
    assert!(tagged[0].starts_with("net.flows_.connections:1|g"));
    assert!(
        tagged
            .iter()
            .any(|line| line == "conntally.uptime_seconds:10|g")
    );
    let empty = config::Report {
        prefix: String::new(),
        ..config::Report::default()
    };
    let mut bench = Bench::new(&empty, &[]);
    let (tagged, _) = bench.tick(Some(&snapshot(vec![row("a", Open, 1)]))).await;
    assert!(tagged[0].starts_with("connections:1|g"));
}

#[tokio::test]
async fn each_part_can_be_left_out() {
    let mut bench = Bench::new(&nothing(), &[]);
    let mut busy = activity("a", Direction::Outbound, Protocol::Tcp);
    busy.activity.opened = 1;
    busy.activity.sent.add(Traffic {
        packets: 1,
        bytes: 1,
    });
    busy.activity.durations.push(1.0);
    let mut full = snapshot(vec![row("a", Open, 1)]);
    full.connections.activities.push(busy);
    full.table = Some(TableSize {
        entries: 1,
        limit: None,
    });
    assert_eq!(bench.tick(Some(&full)).await, (vec![], vec![]));
}

#[tokio::test]
async fn configured_tags_that_would_break_a_line_are_washed_or_left_out() {
    let settings = config::Report {
        telemetry: false,
        ..config::Report::default()
    };
    let mut bench = Bench::new(&settings, &["host:x", "a|b", "team:my team"]);
    let (tagged, _) = bench.tick(Some(&snapshot(vec![]))).await;
    assert_eq!(tagged[0], "conntrack.hosts:7|g|#team:my_team");
}

#[tokio::test]
async fn others_get_turns_during_a_long_report() {
    let mut bench = Bench::connections();
    let rows = (0..4096)
        .map(|number| row(&number.to_string(), Open, 1))
        .collect();
    let snapshot = snapshot(rows);
    let turns = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counter = Arc::clone(&turns);
    let other = tokio::spawn(async move {
        loop {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            yield_now().await;
        }
    });
    bench.tick(Some(&snapshot)).await;
    other.abort();
    let turns = turns.load(std::sync::atomic::Ordering::Relaxed);
    assert!(turns >= 2 * 4096 / 256, "{turns} turns");
}
