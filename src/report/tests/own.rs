//! The agent's own lines.

use super::*;
use crate::telemetry::{Correction, EventKind, LineDrop};

#[tokio::test]
async fn a_source_given_up_is_reported_as_zero() {
    let mut bench = Bench::own();
    let of_source = |lines: Vec<String>| -> Vec<String> {
        let is_source = |line: &String| line.contains("collector.source");
        lines.into_iter().filter(is_source).collect()
    };
    bench.collector().source.set(Some(Source::Conntrack));
    let first = bench.tick(None).await.0;
    assert_eq!(
        of_source(first),
        ["conntally.collector.source:1|g|#source:conntrack"]
    );
    bench.collector().source.set(Some(Source::Sockets));
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
async fn the_mode_is_reported_from_when_there_is_one_and_as_zero_after_a_change() {
    let mut bench = Bench::own();
    let of_mode = |lines: Vec<String>| -> Vec<String> {
        let is_mode = |line: &String| line.contains("collector.mode:");
        lines.into_iter().filter(is_mode).collect()
    };
    assert!(of_mode(bench.tick(None).await.0).is_empty());
    let mode = |mode, holds| format!("conntally.collector.mode:{holds}|g|#mode:{mode}");
    bench.collector().mode.set(Some(Mode::Events));
    assert_eq!(of_mode(bench.tick(None).await.0), [mode("events", 1)]);
    bench.collector().mode.set(Some(Mode::Dump));
    let changed = [mode("dump", 1), mode("events", 0)];
    assert_eq!(of_mode(bench.tick(None).await.0), changed);
    bench.collector().mode.set(None);
    let neither = [mode("dump", 0), mode("events", 0)];
    assert_eq!(of_mode(bench.tick(None).await.1), neither);
}

#[tokio::test]
async fn what_the_collector_counts_by_kind_is_tagged_with_the_kind() {
    let mut bench = Bench::own();
    let collector = bench.collector();
    collector.events.add(EventKind::Destroy, 3);
    collector.corrections.add(Correction::MuteEnded, 2);
    collector.flows.set(9);
    let (lines, _) = bench.tick(None).await;
    for line in [
        "conntally.collector.events:3|c|#kind:destroy",
        "conntally.collector.events:0|c|#kind:new",
        "conntally.collector.corrections:2|c|#kind:mute_ended",
        "conntally.collector.flows:9|g",
        "conntally.collector.flows_opened:0|c",
    ] {
        assert!(lines.iter().any(|sent| sent == line), "{line}");
    }
}

#[tokio::test]
async fn each_namespaces_collector_is_told_of_by_its_tag() {
    let mut bench = Bench::own();
    let blue = Arc::new(CollectorCounters::default());
    let collectors = &mut bench.telemetry.collectors;
    collectors.push((Some("blue".into()), Arc::clone(&blue)));
    blue.flows.set(3);
    blue.source.set(Some(Source::Conntrack));
    blue.mode.set(Some(Mode::Hybrid));
    blue.events.add(EventKind::New, 4);
    bench.collector().flows.set(9);
    let (lines, _) = bench.tick(None).await;
    for line in [
        "conntally.collector.source:1|g|#source:off",
        "conntally.collector.source:1|g|#netns:blue,source:conntrack",
        "conntally.collector.mode:1|g|#netns:blue,mode:hybrid",
        "conntally.collector.flows:9|g",
        "conntally.collector.flows:3|g|#netns:blue",
        "conntally.collector.events:0|c|#kind:new",
        "conntally.collector.events:4|c|#netns:blue,kind:new",
    ] {
        assert!(lines.iter().any(|sent| sent == line), "{line}: {lines:#?}");
    }
    blue.rest();
    let (lines, _) = bench.tick(None).await;
    for line in [
        "conntally.collector.source:0|g|#netns:blue,source:conntrack",
        "conntally.collector.source:1|g|#netns:blue,source:off",
        "conntally.collector.mode:0|g|#netns:blue,mode:hybrid",
        "conntally.collector.flows:0|g|#netns:blue",
        "conntally.collector.flows_forgotten:3|c|#netns:blue",
    ] {
        assert!(lines.iter().any(|sent| sent == line), "{line}: {lines:#?}");
    }
}

#[test]
fn resident_memory_is_read_from_the_kernel() {
    assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
}
