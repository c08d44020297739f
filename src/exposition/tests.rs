mod dashboards;

use std::collections::BTreeSet;

use super::*;
use crate::conntrack::KernelCounters;
use crate::flow::{Direction, Failure, Protocol, Traffic};
use crate::hosts::select::{HostActivity, Selection};
use crate::report::{Snapshot, TableSize};
use crate::tally::Activity;
use crate::telemetry::{CollectorCounters, ListenerCounters, OutputCounters};

fn activity(host: &str, protocol: Protocol, opened: u64, refused: u64) -> HostActivity {
    let mut activity = Activity {
        opened,
        closed: opened / 2,
        ..Activity::default()
    };
    activity.failed[Failure::Refused as usize] = refused;
    HostActivity {
        host: host.into(),
        direction: Direction::Outbound,
        protocol,
        activity,
    }
}

fn snapshot(activities: Vec<HostActivity>) -> Snapshot {
    Snapshot {
        connections: Selection {
            activities,
            hosts: 7,
            folded: 2,
            ..Selection::default()
        },
        table: Some(TableSize {
            entries: 9,
            limit: Some(100),
        }),
        kernel: vec![("drop", 3)],
        ..Snapshot::default()
    }
}

fn telemetry() -> Telemetry {
    let (outputs, listeners) = (OutputCounters::default(), ListenerCounters::default());
    outputs.accepted.add(8);
    outputs.throttled_us.add(1_500_000);
    Telemetry {
        collectors: vec![
            (None, Arc::default()),
            (Some("blue".into()), Arc::<CollectorCounters>::default()),
        ],
        listeners: vec![("unixstream:///run/in".to_owned(), Arc::new(listeners))],
        outputs: vec![("udp://127.0.0.1:8125".to_owned(), Arc::new(outputs))],
        admin: Arc::default(),
        http: Some(Arc::default()),
    }
}

fn exposition(config: &Config, snapshots: &[Snapshot]) -> Exposition {
    let (teller, told) = Teller::new(config.hosts.max);
    let telemetry = telemetry();
    let exposition = Exposition::new(
        config,
        KeyHasher::default(),
        &telemetry,
        Arc::default(),
        told,
    );
    assert!(!exposition.has_ticked());
    for snapshot in snapshots {
        teller.tell(std::slice::from_ref(snapshot));
    }
    exposition
}

/// The sample lines that begin so.
fn samples<'a>(text: &'a str, begin: &str) -> Vec<&'a str> {
    text.lines()
        .filter(|line| line.starts_with(begin))
        .collect()
}

#[tokio::test]
async fn what_ticks_told_as_increments_is_told_as_totals() {
    let mut blue = snapshot(vec![activity("b", Protocol::Tcp, 1, 0)]);
    blue.netns = Some("blue".into());
    let first = snapshot(vec![
        activity("a", Protocol::Tcp, 4, 1),
        activity("a", Protocol::Sctp, 6, 1),
    ]);
    let second = snapshot(vec![activity("a", Protocol::Tcp, 2, 0)]);
    let exposition = exposition(&Config::default(), &[first, blue, second]);
    assert!(exposition.has_ticked());
    let text = exposition.text(Format::Prometheus).await;
    let a = "remote_host=\"a\",direction=\"outbound\"";
    for line in [
        format!("conntrack_opened_total{{{a},protocol=\"tcp\"}} 6"),
        format!("conntrack_opened_total{{{a},protocol=\"sctp\"}} 6"),
        format!("conntrack_closed_total{{{a},protocol=\"tcp\"}} 3"),
        // Without the protocol, as what is pushed.
        format!("conntrack_failed_total{{{a},reason=\"refused\"}} 2"),
        "conntrack_opened_total{netns=\"blue\",remote_host=\"b\",direction=\"outbound\",protocol=\"tcp\"} 1".to_owned(),
        "conntrack_table_entries 9".to_owned(),
        "conntrack_table_entries{netns=\"blue\"} 9".to_owned(),
        "conntrack_table_limit 100".to_owned(),
        "conntrack_table_drop_total 6".to_owned(),
        "conntrack_hosts 7".to_owned(),
        "conntrack_hosts_folded 2".to_owned(),
        "conntally_output_lines_total{output=\"udp://127.0.0.1:8125\"} 8".to_owned(),
        "conntally_output_throttled_seconds_total{output=\"udp://127.0.0.1:8125\"} 1.500000".to_owned(),
        "conntally_collector_source{source=\"off\"} 1".to_owned(),
        "conntally_collector_source{netns=\"blue\",source=\"conntrack\"} 0".to_owned(),
    ] {
        assert_eq!(samples(&text, &line), [&line], "{text}");
    }
}

#[tokio::test]
async fn traffic_and_durations_are_told_where_they_are_asked_for() {
    let mut busy = activity("a", Protocol::Tcp, 0, 0);
    busy.activity.sent = Traffic {
        bytes: 700,
        packets: 7,
    };
    busy.activity.durations.push(1.5);
    busy.activity.durations.push(0.25);
    let mut other_way = busy.clone();
    other_way.direction = Direction::Inbound;
    let ticks = [snapshot(vec![busy]), snapshot(vec![other_way])];
    let mut config = Config::default();
    let text = exposition(&config, &ticks).text(Format::Prometheus).await;
    assert!(!text.contains("conntrack_bytes") && !text.contains("conntrack_duration"));
    config.report.traffic = true;
    config.report.durations = true;
    let text = exposition(&config, &ticks).text(Format::Prometheus).await;
    for line in [
        "conntrack_bytes_total{remote_host=\"a\",way=\"sent\"} 1400",
        "conntrack_bytes_total{remote_host=\"a\",way=\"received\"} 0",
        "conntrack_packets_total{remote_host=\"a\",way=\"sent\"} 14",
        "conntrack_durations_total{remote_host=\"a\",protocol=\"tcp\"} 4",
        "conntrack_duration_seconds_total{remote_host=\"a\",protocol=\"tcp\"} 3.500000",
    ] {
        assert_eq!(samples(&text, line), [line], "{text}");
    }
}

#[tokio::test]
async fn hosts_whose_ends_are_told_are_as_many_as_are_apart() {
    let mut config = Config::default();
    config.hosts.max = 2;
    let ticks = ["a", "b", "a", "c", "other", "public"]
        .map(|host| snapshot(vec![activity(host, Protocol::Tcp, 2, 0)]));
    let text = exposition(&config, &ticks).text(Format::Prometheus).await;
    let told = samples(&text, "conntrack_opened_total{");
    let number = |host: &str| {
        told.iter()
            .find(|line| line.contains(&format!("\"{host}\"")))
            .map(|line| line.rsplit(' ').next().unwrap())
    };
    assert_eq!(number("a"), Some("4"));
    assert_eq!(number("b"), None, "it is the one that was last seen first");
    for host in ["c", "other", "public"] {
        assert_eq!(number(host), Some("2"), "{host}");
    }
}

#[tokio::test]
async fn what_the_report_leaves_out_is_not_told() {
    let nothing = Report {
        connections: false,
        rates: false,
        table: false,
        telemetry: false,
        ..Report::default()
    };
    let ticks = [snapshot(vec![activity("a", Protocol::Tcp, 2, 1)])];
    let text_of = async |report: &Report| {
        let config = Config {
            report: report.clone(),
            ..Config::default()
        };
        exposition(&config, &ticks).text(Format::OpenMetrics).await
    };
    assert_eq!(text_of(&nothing).await, "# EOF\n");
    let table = Report {
        table: true,
        ..nothing
    };
    let text = text_of(&table).await;
    assert!(
        samples(&text, "conntrack_")
            .iter()
            .all(|line| line.starts_with("conntrack_table_")),
        "{text}"
    );
}

/// Everything that is ever told.
async fn everything(format: Format) -> String {
    let mut full = snapshot(vec![activity("a", Protocol::Tcp, 1, 1)]);
    full.kernel = KernelCounters::default().iter().collect();
    let mut config = Config::default();
    config.report.traffic = true;
    config.report.durations = true;
    exposition(&config, &[full]).text(format).await
}

#[tokio::test]
async fn every_family_says_what_it_is() {
    let text = everything(Format::Prometheus).await;
    let mut texts = BTreeSet::new();
    for line in samples(&text, "# HELP ") {
        assert!(!line.ends_with(help::NONE), "{line}");
        let name = line.split(' ').nth(2).unwrap();
        texts.insert(name);
    }
    assert!(texts.len() > 80, "{}", texts.len());
    assert_eq!(
        texts.len(),
        samples(&text, "# HELP ").len(),
        "each family once"
    );
}
