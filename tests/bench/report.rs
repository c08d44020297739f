//! A tick's report of 10,000 remote hosts in 4 states, beside a loop that writes
//! the same lines by hand; and the same with what happened since the last tick.

use std::io::Write as _;
use std::slice;
use std::sync::Arc;

use cadence::prelude::*;
use cadence::{NopMetricSink, StatsdClient};
use conntally::config::{self, OnFull};
use conntally::flow::{ConnectionState, Direction, Protocol, Traffic};
use conntally::hosts::select::{HostActivity, Row, Selection};
use conntally::output::Fanout;
use conntally::output::payload::{Delimiter, Shape};
use conntally::output::queue::{self, Outlet};
use conntally::report::{Process, Reporter, Snapshot};
use conntally::tally::Activity;
use conntally::telemetry::{OutputCounters, Telemetry};
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher};
use tokio::runtime::Builder;
use tokio::time::Instant;

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

const HOSTS: u32 = 10_000;

fn main() {
    divan::main();
}

fn host(number: u32) -> Arc<str> {
    let [_, _, high, low] = number.to_be_bytes();
    format!("10.99.{high}.{low}").into()
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for number in 0..HOSTS {
        let host = host(number);
        for state in ConnectionState::ALL {
            rows.push(Row {
                host: Arc::clone(&host),
                direction: Direction::Outbound,
                protocol: Protocol::Tcp,
                port: None,
                state: state.as_str(),
                connections: u64::from(number) + 1,
                general: state,
            });
        }
    }
    rows.sort();
    rows
}

/// Each host opened, closed and failed to open some; with traffic, and so many durations.
fn activities(durations: u16) -> Vec<HostActivity> {
    let mut activities: Vec<_> = (0..HOSTS)
        .map(|number| {
            let traffic = Traffic {
                packets: u64::from(number) + 1,
                bytes: 1000 * (u64::from(number) + 1),
            };
            let mut activity = Activity {
                opened: u64::from(number) + 1,
                closed: u64::from(number) + 1,
                failed: [0, u64::from(number) + 1, 0, 0],
                sent: traffic,
                received: traffic,
                ..Activity::default()
            };
            for duration in 0..durations {
                activity.durations.push(f32::from(duration) / 7.0);
            }
            HostActivity {
                host: host(number),
                direction: Direction::Outbound,
                protocol: Protocol::Tcp,
                activity,
            }
        })
        .collect();
    activities.sort_by(|a, b| a.host.cmp(&b.host));
    activities
}

fn output() -> (Fanout, Outlet) {
    let settings = queue::Settings {
        capacity: 64 << 20,
        on_full: OnFull::Drop,
        ..queue::Settings::of(Shape {
            limit: 8192,
            delimiter: Delimiter::LengthPrefix,
        })
    };
    let (inlet, outlet) = queue::queue(settings, Arc::new(OutputCounters::default()));
    (Fanout::new(vec![inlet]), outlet)
}

#[divan::bench]
fn bare_write(bencher: Bencher<'_, '_>) {
    let rows = rows();
    let mut to = Vec::new();
    bencher
        .counter(ItemsCount::new(rows.len()))
        .bench_local(|| {
            to.clear();
            for row in &rows {
                let written = writeln!(
                    to,
                    "conntrack.connections:{}|g|#remote_host:{},state:{},protocol:{},direction:{}",
                    row.connections,
                    row.host,
                    row.state,
                    row.protocol.as_str(),
                    row.direction.as_str(),
                );
                debug_assert!(written.is_ok());
            }
            to.len()
        });
}

#[divan::bench]
fn cadence_into_nothing(bencher: Bencher<'_, '_>) {
    let rows = rows();
    let client = StatsdClient::from_sink("conntrack", NopMetricSink);
    bencher
        .counter(ItemsCount::new(rows.len()))
        .bench_local(|| {
            for row in &rows {
                client
                    .gauge_with_tags("connections", row.connections)
                    .with_tag("remote_host", &row.host)
                    .with_tag("state", row.state)
                    .with_tag("protocol", row.protocol.as_str())
                    .with_tag("direction", row.direction.as_str())
                    .send();
            }
        });
}

/// The whole way: lines into an output's queue, and out of it again.
#[divan::bench]
fn report(bencher: Bencher<'_, '_>) {
    whole(bencher, &config::Report::default(), Vec::new());
}

/// With rates: 7 lines a host.
#[divan::bench]
fn report_with_rates(bencher: Bencher<'_, '_>) {
    whole(bencher, &config::Report::default(), activities(0));
}

/// With rates, traffic and 20 durations: 12 lines a host.
#[divan::bench]
fn report_with_everything(bencher: Bencher<'_, '_>) {
    let settings = config::Report {
        traffic: true,
        durations: true,
        ..config::Report::default()
    };
    whole(bencher, &settings, activities(20));
}

fn whole(bencher: Bencher<'_, '_>, settings: &config::Report, activities: Vec<HostActivity>) {
    let Ok(runtime) = Builder::new_current_thread().enable_time().build() else {
        return;
    };
    let _guard = runtime.enter();
    let (fanout, mut outlet) = output();
    let settings = config::Report {
        telemetry: false,
        ..settings.clone()
    };
    let mut reporter = Reporter::new(&settings, &[], fanout, Fanout::default());
    let snapshot = Snapshot {
        connections: Selection {
            activities,
            rows: rows(),
            hosts: u64::from(HOSTS),
            folded: 0,
        },
        ..Snapshot::default()
    };
    let telemetry = Telemetry::default();
    let now = Instant::now();
    let process = Process {
        started: now,
        resident: None,
    };
    let mut tick = || {
        runtime.block_on(reporter.report(slice::from_ref(&snapshot), &telemetry, &process, now));
        let mut lines = 0;
        while let Some(chunk) = outlet.drain() {
            lines += chunk.lines();
            outlet.release(chunk);
        }
        lines
    };
    let lines = tick();
    bencher.counter(ItemsCount::new(lines)).bench_local(tick);
}
