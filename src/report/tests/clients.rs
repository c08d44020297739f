//! What Datadog's dashboards read.

use super::*;
use crate::config::Output;
use crate::telemetry::LineDrop;

/// A reporter that tells of outputs to these addresses, and their counters.
fn bench(outputs: &[(&str, Format)]) -> (Bench, Vec<Arc<OutputCounters>>) {
    let mut bench = Bench::own();
    let mut all = Vec::new();
    let mut counted = Vec::new();
    for &(address, format) in outputs {
        let counters = Arc::<OutputCounters>::default();
        let named = (address.to_owned(), Arc::clone(&counters));
        bench.telemetry.outputs.push(named);
        counted.push(counters);
        all.push(Output {
            address: address.parse().unwrap(),
            format,
            ..Output::default()
        });
    }
    bench.reporter = bench.reporter.telling_of(&all);
    (bench, counted)
}

fn dogstatsd(addresses: &[&str]) -> (Bench, Vec<Arc<OutputCounters>>) {
    let outputs: Vec<_> = (addresses.iter())
        .map(|&address| (address, Format::Dogstatsd))
        .collect();
    bench(&outputs)
}

/// The lines of a tick that tell of clients, less what all of them have in common.
async fn told(bench: &mut Bench) -> Vec<String> {
    let (tagged, plain) = bench.tick(None).await;
    let of_clients = |line: &String| line.starts_with("datadog.");
    assert!(!plain.iter().any(of_clients));
    let common = concat!(
        "|c|#client:rust-conntally,client_version:",
        env!("CARGO_PKG_VERSION"),
        ",client_transport:"
    );
    let short = |line: &String| {
        let (name, transport) = line.split_once(common).unwrap();
        let name = name.strip_prefix("datadog.dogstatsd.client.").unwrap();
        format!("{name} {transport}")
    };
    tagged
        .iter()
        .filter(|line| of_clients(line))
        .map(short)
        .collect()
}

#[tokio::test]
async fn an_output_is_told_of_as_a_client_that_sends_by_its_transport() {
    let (mut bench, outputs) = dogstatsd(&["udp://127.0.0.1:1"]);
    let counters = &outputs[0];
    counters.accepted.add(100);
    counters.payloads.add(3);
    counters.bytes.add(4_000);
    counters.merged_contexts.add(7);
    counters.drop_lines(LineDrop::QueueFull, 5, 1_432);
    counters.drop_lines(LineDrop::BacklogEvicted, 4, 1);
    counters.drop_lines(LineDrop::Oversized, 1, 9_000);
    assert_eq!(
        told(&mut bench).await,
        [
            "metrics:100 udp",
            "metric_dropped_on_receive:9 udp",
            "packets_sent:3 udp",
            "packets_dropped:9 udp",
            "packets_dropped_queue:2 udp",
            "packets_dropped_writer:7 udp",
            "bytes_sent:4000 udp",
            "bytes_dropped:10433 udp",
            "bytes_dropped_queue:1433 udp",
            "bytes_dropped_writer:9000 udp",
            "aggregated_context:7 udp",
        ]
    );
}

#[tokio::test]
async fn outputs_of_one_transport_are_told_of_together() {
    let (mut bench, outputs) = dogstatsd(&[
        "unixgram:///a",
        "unixstream:///b",
        "unix:///c",
        "tcp://127.0.0.1:1",
    ]);
    for (output, lines) in outputs.iter().zip([1, 20, 300, 4_000]) {
        output.accepted.add(lines);
    }
    let told = told(&mut bench).await;
    let metrics: Vec<_> = told
        .iter()
        .filter(|line| line.contains("metrics:"))
        .collect();
    assert_eq!(
        metrics,
        [
            "metrics:4000 tcp",
            "metrics:301 uds",
            "metrics:20 uds-stream"
        ]
    );
}

#[tokio::test]
async fn there_is_no_client_behind_standard_output_nor_behind_other_formats() {
    let (mut bench, outputs) = bench(&[
        ("stdout:", Format::Dogstatsd),
        ("udp://127.0.0.1:1", Format::Statsd),
        ("udp://127.0.0.1:2", Format::Influx),
        ("tcp://127.0.0.1:3", Format::Graphite),
    ]);
    for output in outputs {
        output.accepted.add(1);
    }
    assert!(told(&mut bench).await.is_empty());
}

#[tokio::test]
async fn each_series_begins_with_a_line_and_goes_back_to_zero_once() {
    let (mut bench, outputs) = dogstatsd(&["udp://127.0.0.1:1"]);
    let first = told(&mut bench).await;
    assert_eq!(first.len(), 11);
    assert!(first.iter().all(|line| line.contains(":0 ")), "{first:?}");
    assert!(told(&mut bench).await.is_empty());
    outputs[0].accepted.add(2);
    assert_eq!(told(&mut bench).await, ["metrics:2 udp"]);
    assert_eq!(told(&mut bench).await, ["metrics:0 udp"]);
    assert!(told(&mut bench).await.is_empty());
}

#[tokio::test]
async fn what_is_dropped_in_a_tick_makes_whole_packets_of_each_output() {
    let (mut bench, outputs) = dogstatsd(&["udp://127.0.0.1:1", "udp://127.0.0.1:2"]);
    told(&mut bench).await;
    let drop = |bytes| {
        for output in &outputs {
            output.drop_lines(LineDrop::BacklogFull, 1, bytes);
        }
    };
    for (bytes, packets) in [(1, 2), (1, 2), (1_432, 2), (1_433, 4)] {
        drop(bytes);
        let told = told(&mut bench).await;
        let expected = format!("packets_dropped_queue:{packets} udp");
        assert!(told.contains(&expected), "{bytes}: {told:?}");
    }
}

#[tokio::test]
async fn the_configured_tags_are_on_them_too() {
    let mut bench = Bench::new(&config::Report::default(), &["team:net"]);
    bench
        .telemetry
        .outputs
        .push(("a".to_owned(), Arc::default()));
    bench.reporter = bench.reporter.telling_of(&[Output::default()]);
    let (tagged, _) = bench.tick(None).await;
    let begins = "datadog.dogstatsd.client.metrics:0|c|#team:net,client:rust-conntally,";
    assert!(
        tagged.iter().any(|line| line.starts_with(begins)),
        "{tagged:#?}"
    );
}
