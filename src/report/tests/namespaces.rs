//! Snapshots of several network namespaces.

use super::*;
use crate::flow::Direction::Outbound;
use crate::flow::Protocol::Tcp;

fn settings() -> config::Report {
    config::Report {
        durations: true,
        traffic: true,
        telemetry: false,
        ..config::Report::default()
    }
}

/// One of everything.
fn full(netns: Option<&str>) -> Snapshot {
    let mut busy = activity("a", Outbound, Tcp);
    busy.activity.opened = 1;
    busy.activity.failed = [1; 4];
    busy.activity.sent.bytes = 1;
    busy.activity.durations.push(1.0);
    let mut full = snapshot(vec![row("a", Open, 1)]);
    full.connections.activities.push(busy);
    Snapshot {
        netns: netns.map(Into::into),
        table: Some(TableSize {
            entries: 5,
            limit: Some(9),
        }),
        kernel: vec![("drop", 2)],
        ..full
    }
}

async fn tick(bench: &mut Bench, snapshots: &[Snapshot]) -> (Vec<String>, Vec<String>) {
    bench.now += TICK;
    bench
        .reporter
        .report(snapshots, &bench.telemetry, &bench.process, bench.now)
        .await;
    (lines(&mut bench.tagged), lines(&mut bench.plain))
}

#[tokio::test]
async fn every_line_of_another_namespace_is_tagged_with_its_name() {
    let mut bench = Bench::new(&settings(), &["env:prod"]);
    let (own, _) = tick(&mut bench, &[full(None)]).await;
    let (both, _) = tick(&mut bench, &[full(None), full(Some("pod|1"))]).await;
    let (first, second) = both.split_at(own.len());
    assert_eq!(first, own);
    let tagged: Vec<_> = own
        .iter()
        .map(|line| line.replace("#env:prod", "#env:prod,netns:pod_1"))
        .collect();
    assert_eq!(second, tagged);
    assert!(tagged.iter().all(|line| line.contains(",netns:pod_1")));
}

#[tokio::test]
async fn without_tags_the_namespace_is_the_first_part_behind_the_metric() {
    let plain = output(Format::Statsd, 8192);
    let tagged = output(Format::Dogstatsd, 8192);
    let mut bench = Bench::over(&settings(), &[], tagged, plain);
    let (_, plain) = tick(&mut bench, &[full(Some("/run/netns/blue"))]).await;
    assert_eq!(
        plain,
        [
            "conntrack.opened._run_netns_blue.a:1|c",
            "conntrack.failed._run_netns_blue.a.refused:1|c",
            "conntrack.failed._run_netns_blue.a.timeout:1|c",
            "conntrack.failed._run_netns_blue.a.reset:1|c",
            "conntrack.failed._run_netns_blue.a.unreachable:1|c",
            "conntrack.bytes._run_netns_blue.a.sent:1|c",
            "conntrack.duration._run_netns_blue.a:1000|ms",
            "conntrack.connections._run_netns_blue.a.open:1|g",
            "conntrack.hosts._run_netns_blue:7|g",
            "conntrack.hosts.folded._run_netns_blue:2|g",
            "conntrack.table.entries._run_netns_blue:5|g",
            "conntrack.table.limit._run_netns_blue:9|g",
            "conntrack.table.drop._run_netns_blue:2|c",
        ]
    );
}

#[tokio::test]
async fn what_vanished_in_one_namespace_is_zero_there_alone() {
    let mut bench = Bench::connections();
    let of = |netns: Option<&str>, rows| Snapshot {
        netns: netns.map(Into::into),
        ..snapshot(rows)
    };
    let here = vec![row("a", Open, 1)];
    tick(
        &mut bench,
        &[of(None, here.clone()), of(Some("blue"), here.clone())],
    )
    .await;
    let (lines, _) = tick(
        &mut bench,
        &[of(None, here.clone()), of(Some("blue"), vec![])],
    )
    .await;
    let connections: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("conntrack.connections"))
        .collect();
    assert_eq!(
        connections,
        [
            "conntrack.connections:1|g|#remote_host:a,state:open,protocol:tcp,direction:outbound",
            "conntrack.connections:0|g|#netns:blue,remote_host:a,state:open,protocol:tcp,\
             direction:outbound",
        ]
    );
    // A namespace that was not read keeps what it has.
    let (lines, _) = tick(&mut bench, &[of(None, here)]).await;
    assert!(!lines.iter().any(|line| line.contains("netns")));
}

#[tokio::test]
async fn the_kernels_counters_fall_quiet_in_each_namespace_by_itself() {
    let settings = config::Report {
        table: true,
        ..nothing()
    };
    let mut bench = Bench::new(&settings, &[]);
    let of = |netns: Option<&str>, drop| Snapshot {
        netns: netns.map(Into::into),
        kernel: vec![("drop", drop)],
        ..Snapshot::default()
    };
    let tick_of = async |bench: &mut Bench, own, blue| {
        let snapshots = [of(None, own), of(Some("blue"), blue)];
        tick(bench, &snapshots).await.0
    };
    assert_eq!(
        tick_of(&mut bench, 0, 3).await,
        [
            "conntrack.table.drop:0|c",
            "conntrack.table.drop:3|c|#netns:blue"
        ]
    );
    assert_eq!(
        tick_of(&mut bench, 0, 0).await,
        ["conntrack.table.drop:0|c|#netns:blue"]
    );
    assert_eq!(
        tick_of(&mut bench, 1, 0).await,
        ["conntrack.table.drop:1|c"]
    );
}
