use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::Format;
use crate::flow::ConnectionState::{self, Closing, Open, Opening};
use crate::flow::{Direction, Protocol};
use crate::hosts::select::Row;
use crate::output::format::Encoding;
use crate::output::payload::{Delimiter, Shape};
use crate::output::queue::{self, Outlet};
use crate::telemetry::{LineDrop, OutputCounters};

mod strict;

const TICK: Duration = Duration::from_secs(10);

/// One output of the lane: what the reporter writes to, and what comes out.
fn output() -> (Fanout, Outlet) {
    let settings = queue::Settings {
        shape: Shape {
            limit: 8192,
            delimiter: Delimiter::Newline,
        },
        capacity: 64 << 20,
        flush_interval: Duration::from_millis(100),
        blocks: false,
        encoding: Encoding::new(Format::Dogstatsd, ""),
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
        table: None,
        kernel: Vec::new(),
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
        let (tagged, tagged_outlet) = output();
        let (plain, plain_outlet) = output();
        let tags: Vec<_> = tags.iter().map(|&tag| tag.to_owned()).collect();
        let now = Instant::now();
        Self {
            reporter: Reporter::new(settings, &tags, tagged, plain),
            tagged: tagged_outlet,
            plain: plain_outlet,
            now,
            process: Process {
                source: Source::Conntrack,
                started: now,
                resident: None,
            },
            telemetry: Telemetry::default(),
        }
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
            .report(snapshot, &self.telemetry, &self.process, self.now)
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
async fn a_series_is_a_gauge_with_its_tags() {
    let mut bench = Bench::new(
        &config::Report {
            telemetry: false,
            ..config::Report::default()
        },
        &["env:prod", "canary"],
    );
    let rows = vec![
        row("10.99.0.2", Open, 3),
        Row {
            port: Some(443),
            direction: Direction::Inbound,
            ..row("fd00::99", Closing, 1)
        },
    ];
    let (tagged, _) = bench.tick(Some(&snapshot(rows))).await;
    assert_eq!(
        tagged,
        [
            "conntrack.connections:3|g|#env:prod,canary,remote_host:10.99.0.2,state:open,\
             protocol:tcp,direction:outbound",
            "conntrack.connections:1|g|#env:prod,canary,remote_host:fd00::99,state:closing,\
             protocol:tcp,direction:inbound,port:443",
            "conntrack.hosts:7|g|#env:prod,canary",
            "conntrack.hosts.folded:2|g|#env:prod,canary",
        ]
    );
}

#[tokio::test]
async fn outputs_without_tags_get_sums_by_host_and_state() {
    let mut bench = Bench::new(
        &config::Report {
            telemetry: false,
            ..config::Report::default()
        },
        &["env:prod"],
    );
    let inbound = |row| Row {
        direction: Direction::Inbound,
        ..row
    };
    let rows = vec![
        row("a", Open, 3),
        inbound(row("a", Open, 4)),
        Row {
            port: Some(53),
            protocol: Protocol::Udp,
            ..row("a", Open, 5)
        },
        inbound(row("a", Closing, 1)),
        row("b", Open, 1),
    ];
    let (_, plain) = bench.tick(Some(&snapshot(rows))).await;
    assert_eq!(
        plain,
        [
            "conntrack.connections:1|g|#remote_host:a,state:closing",
            "conntrack.connections:12|g|#remote_host:a,state:open",
            "conntrack.connections:1|g|#remote_host:b,state:open",
            "conntrack.hosts:7|g",
            "conntrack.hosts.folded:2|g",
        ]
    );
}

#[tokio::test]
async fn a_series_that_vanished_is_zero_for_two_minutes_and_then_forgotten() {
    let mut bench = Bench::connections();
    let stays = "conntrack.connections:1|g|#remote_host:b,state:open,protocol:tcp,\
                 direction:outbound";
    let gone = "conntrack.connections:0|g|#remote_host:a,state:open,protocol:tcp,\
                direction:outbound";
    bench.rows(vec![row("a", Open, 3), row("b", Open, 1)]).await;
    for tick in 0..12 {
        let lines = bench.rows(vec![row("b", Open, 1)]).await;
        assert_eq!(lines, [gone, stays], "tick {tick}");
    }
    assert_eq!(bench.rows(vec![row("b", Open, 1)]).await, [stays]);
}

#[tokio::test]
async fn a_series_that_comes_back_starts_its_two_minutes_anew() {
    let mut bench = Bench::connections();
    bench.rows(vec![row("a", Open, 1)]).await;
    for _ in 0..11 {
        bench.rows(vec![]).await;
    }
    let back = bench.rows(vec![row("a", Open, 2)]).await;
    assert!(back[0].starts_with("conntrack.connections:2|g"));
    let mut zeros = 0;
    while !bench.rows(vec![]).await.is_empty() {
        zeros += 1;
    }
    assert_eq!(zeros, 12);
}

#[tokio::test]
async fn a_tick_longer_than_two_minutes_still_gets_its_zero() {
    let mut bench = Bench::connections();
    bench.rows(vec![row("a", Open, 1)]).await;
    bench.now += Duration::from_secs(600);
    let zero = bench.rows(vec![]).await;
    assert!(zero[0].starts_with("conntrack.connections:0|g"));
    bench.now += Duration::from_secs(600);
    assert!(bench.rows(vec![]).await.is_empty());
}

#[tokio::test]
async fn a_sum_without_tags_is_zero_only_when_all_of_it_vanished() {
    let mut bench = Bench::connections();
    let inbound = Row {
        direction: Direction::Inbound,
        ..row("a", Open, 2)
    };
    let both = snapshot(vec![row("a", Open, 1), inbound]);
    bench.tick(Some(&both)).await;
    let (_, plain) = bench.tick(Some(&snapshot(vec![row("a", Open, 1)]))).await;
    assert_eq!(
        plain[0],
        "conntrack.connections:1|g|#remote_host:a,state:open"
    );
    let (_, plain) = bench.tick(Some(&snapshot(vec![]))).await;
    assert_eq!(
        plain[0],
        "conntrack.connections:0|g|#remote_host:a,state:open"
    );
}

#[tokio::test]
async fn without_a_snapshot_connections_are_left_as_they_are() {
    let mut bench = Bench::connections();
    bench.rows(vec![row("a", Open, 1)]).await;
    assert!(bench.tick(None).await.0.is_empty());
    let lines = bench.rows(vec![row("a", Open, 1)]).await;
    assert!(lines[0].starts_with("conntrack.connections:1|g"));
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
async fn a_source_given_up_is_reported_as_zero() {
    let mut bench = Bench::own();
    let of_source = |lines: Vec<String>| -> Vec<String> {
        let is_source = |line: &String| line.contains("collector.source");
        lines.into_iter().filter(is_source).collect()
    };
    let first = bench.tick(None).await.0;
    assert_eq!(
        of_source(first),
        ["conntally.collector.source:1|g|#source:conntrack"]
    );
    bench.process.source = Source::Sockets;
    let second = bench.tick(None).await.0;
    assert_eq!(
        of_source(second),
        [
            "conntally.collector.source:0|g|#source:conntrack",
            "conntally.collector.source:1|g|#source:sockets"
        ]
    );
}

#[tokio::test]
async fn the_agents_counters_are_sent_as_what_was_added() {
    let mut bench = Bench::own();
    let counters = Arc::new(OutputCounters::default());
    let name = "unixgram:///run/a,b|c.socket".to_owned();
    bench.telemetry.outputs.push((name, Arc::clone(&counters)));
    counters.sent.add(5);
    counters.accepted.add(8);
    let first = bench.tick(None).await;
    assert_eq!(first.0, first.1);
    let tag = "output:unixgram:///run/a_b_c.socket";
    for line in [
        format!("conntally.output.lines_sent:5|c|#{tag}"),
        format!("conntally.output.lines_held:3|g|#{tag}"),
        format!("conntally.output.lines_dropped:0|c|#{tag},reason:queue_full"),
    ] {
        assert!(first.0.contains(&line), "{line}");
    }
    counters.sent.add(2);
    counters.dropped.add(LineDrop::QueueFull, 1);
    let (second, _) = bench.tick(None).await;
    for line in [
        format!("conntally.output.lines_sent:2|c|#{tag}"),
        format!("conntally.output.lines_dropped:1|c|#{tag},reason:queue_full"),
    ] {
        assert!(second.contains(&line), "{line}");
    }
    assert!(!second.iter().any(|line| line.contains("reason:oversized")));
}

#[tokio::test]
async fn each_part_can_be_left_out() {
    let settings = config::Report {
        connections: false,
        table: false,
        telemetry: false,
        ..config::Report::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    let full = Snapshot {
        table: Some(TableSize {
            entries: 1,
            limit: None,
        }),
        ..snapshot(vec![row("a", Open, 1)])
    };
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
async fn lines_come_in_the_same_order_each_tick() {
    let mut bench = Bench::new(&config::Report::default(), &[]);
    let rows: Vec<_> = (0..50)
        .map(|number| row(&format!("10.0.0.{number}"), Opening, number + 1))
        .collect();
    let first = bench.tick(Some(&snapshot(rows.clone()))).await.0;
    let reversed = rows.into_iter().rev().collect();
    let second = bench.tick(Some(&snapshot(reversed))).await.0;
    let connections = |lines: &[String]| lines[..52].to_vec();
    assert_eq!(connections(&first), connections(&second));
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

#[test]
fn resident_memory_is_read_from_the_kernel() {
    assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
}
