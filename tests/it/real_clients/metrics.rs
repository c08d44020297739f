//! The crate metrics with its exporter for `DogStatsD`, over each transport that it knows.
//!
//! What it sends together is a matter of time, so that not lines but what they add up to is
//! compared with what was counted.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{counter, gauge, histogram, with_local_recorder};
use metrics_exporter_dogstatsd::{AggregationMode, DogStatsDBuilder};

use super::relay;
use crate::support::clients::free_udp_port;
use crate::support::netns::eventually;
use crate::support::receiver::Receiver;

/// Values of the histogram, more than fit into one payload.
const VALUES: u32 = 3_000;
const ROUNDS: u64 = 20;

/// What all lines of the client add up to.
#[derive(Debug, Default, PartialEq)]
struct Sums {
    counts: BTreeMap<String, u64>,
    /// The last value.
    gauges: BTreeMap<String, String>,
    /// How many values, and their sum; whole numbers, so that it is exact.
    values: BTreeMap<String, (usize, f64)>,
}

impl Sums {
    fn of(lines: &[String]) -> Self {
        let mut sums = Self::default();
        for line in lines {
            let mut fields = line.split('|');
            let (name, values) = fields.next().unwrap().split_once(':').unwrap();
            let kind = fields.next().unwrap();
            let tags = fields
                .find(|field| field.starts_with('#'))
                .unwrap_or_default();
            let context = format!("{name}|{kind}|{tags}");
            match kind {
                "c" => *sums.counts.entry(context).or_default() += values.parse::<u64>().unwrap(),
                "g" => drop(sums.gauges.insert(context, values.to_owned())),
                _ => {
                    let (count, sum) = sums.values.entry(context).or_default();
                    for value in values.split(':') {
                        *count += 1;
                        *sum += value.parse::<f64>().unwrap();
                    }
                }
            }
        }
        sums
    }

    fn expected(kind: &str) -> Self {
        let sum = f64::from(VALUES * (VALUES - 1) / 2);
        Self {
            counts: BTreeMap::from([
                ("shop.orders|c|#method:card,env:test".to_owned(), ROUNDS * 5),
                ("shop.visits|c|#env:test".to_owned(), ROUNDS),
            ]),
            gauges: BTreeMap::from([("shop.queue|g|#env:test".to_owned(), "-2.5".to_owned())]),
            values: BTreeMap::from([(
                format!("shop.latency|{kind}|#endpoint:/buy,env:test"),
                (VALUES as usize, sum),
            )]),
        }
    }
}

#[track_caller]
fn metrics_arrive(listener: &str, address: &str, mode: AggregationMode, distributions: bool) {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start("unixstream", &directory.join("relayed"));
    let place = directory.join("in.socket").display().to_string();
    let listener = listener.replace("PLACE", &place);
    let daemon = relay(directory, &listener, &receiver);
    // Its thread goes on until the test's process ends; nobody listens to it then.
    let recorder = DogStatsDBuilder::default()
        .with_remote_address(address.replace("PLACE", &place))
        .unwrap()
        .with_aggregation_mode(mode)
        .with_flush_interval(Duration::from_millis(50))
        .with_telemetry(false)
        .with_histogram_sampling(false)
        .send_histograms_as_distributions(distributions)
        .with_global_labels(vec![metrics::Label::new("env", "test")])
        .set_global_prefix("shop")
        .build()
        .unwrap();
    with_local_recorder(&recorder, || {
        for round in 0..ROUNDS {
            counter!("orders", "method" => "card").increment(5);
            counter!("visits").increment(1);
            gauge!("queue").set(if round + 1 == ROUNDS { -2.5 } else { 7.0 });
        }
        for value in 0..VALUES {
            histogram!("latency", "endpoint" => "/buy").record(f64::from(value));
        }
    });
    let expected = Sums::expected(if distributions { "d" } else { "h" });
    let mut sums = Sums::default();
    eventually("all that was counted arrives", || {
        sums = Sums::of(&receiver.lines());
        sums == expected
    });
    assert_eq!(daemon.stop().code, Some(0));
    assert_eq!(Sums::of(&receiver.lines()), expected);
}

#[test]
fn what_the_crate_metrics_counts_arrives_over_a_unix_stream() {
    for mode in [AggregationMode::Conservative, AggregationMode::Aggressive] {
        metrics_arrive("unixstream://PLACE", "unix://PLACE", mode, true);
    }
}

#[test]
fn what_the_crate_metrics_counts_arrives_over_unixgram() {
    for mode in [AggregationMode::Conservative, AggregationMode::Aggressive] {
        metrics_arrive("unixgram://PLACE", "unixgram://PLACE", mode, false);
    }
}

#[test]
fn what_the_crate_metrics_counts_arrives_over_udp() {
    for mode in [AggregationMode::Conservative, AggregationMode::Aggressive] {
        let address = format!("udp://127.0.0.1:{}", free_udp_port());
        metrics_arrive(&address, &address, mode, true);
    }
}
