//! How long connections lasted: distributions, several values a line.

use proptest::prelude::*;

use super::strict::runtime;
use super::*;
use crate::flow::Direction::{Inbound, Outbound};
use crate::flow::Protocol::{Tcp, Udp};

fn durations() -> config::Report {
    config::Report {
        durations: true,
        ..nothing()
    }
}

fn lasted(host: &str, direction: Direction, protocol: Protocol, seconds: &[f32]) -> HostActivity {
    let mut lasted = activity(host, direction, protocol);
    for &seconds in seconds {
        lasted.activity.durations.push(seconds);
    }
    lasted
}

#[tokio::test]
async fn durations_are_packed_by_host_and_protocol() {
    let mut bench = Bench::new(&durations(), &["env:prod"]);
    let snapshot = active(vec![
        lasted("web", Outbound, Tcp, &[0.25, 1.0]),
        lasted("web", Outbound, Udp, &[30.0]),
        lasted("web", Inbound, Tcp, &[7200.0004]),
    ]);
    let (tagged, plain) = bench.tick(Some(&snapshot)).await;
    assert_eq!(
        tagged,
        [
            "conntrack.duration:0.25:1|d|#env:prod,remote_host:web,protocol:tcp",
            "conntrack.duration:7200|d|#env:prod,remote_host:web,protocol:tcp",
            "conntrack.duration:30|d|#env:prod,remote_host:web,protocol:udp",
        ]
    );
    assert_eq!(
        plain,
        [
            "conntrack.duration:0.25:1|d|#remote_host:web",
            "conntrack.duration:30|d|#remote_host:web",
            "conntrack.duration:7200|d|#remote_host:web",
        ]
    );
}

#[tokio::test]
async fn a_sample_says_which_part_of_all_it_is() {
    let mut bench = Bench::new(&durations(), &[]);
    let many = lasted("web", Outbound, Tcp, &[2.5; 1024]);
    let (tagged, _) = bench.tick(Some(&active(vec![many]))).await;
    let values: usize = tagged
        .iter()
        .map(|line| {
            let (values, rest) = line.split_once("|d|").unwrap();
            assert_eq!(rest, "@0.25|#remote_host:web,protocol:tcp");
            values.split(':').skip(1).filter(|&v| v == "2.5").count()
        })
        .sum();
    // Each stands for four.
    assert_eq!(values, 256);
}

#[tokio::test]
async fn servers_without_distributions_get_timings_in_milliseconds() {
    let plain = output(Format::Statsd, 8192);
    let tagged = output(Format::Graphite, 8192);
    let mut bench = Bench::over(&durations(), &[], tagged, plain);
    let snapshot = active(vec![lasted("10.0.0.5", Outbound, Tcp, &[0.25, 60.0])]);
    let (graphite, statsd) = bench.tick(Some(&snapshot)).await;
    assert_eq!(
        statsd,
        [
            "conntrack.duration.10_0_0_5:250|ms",
            "conntrack.duration.10_0_0_5:60000|ms",
        ]
    );
    assert_eq!(
        graphite,
        [
            "conntrack.duration;remote_host=10.0.0.5;protocol=tcp:250|ms",
            "conntrack.duration;remote_host=10.0.0.5;protocol=tcp:60000|ms",
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No line with its newline is longer than a KiB, nor than the output's
    /// payloads, and every value that was kept comes out, to the millisecond.
    #[test]
    fn prop_packed_lines_fit_and_carry_every_value(
        seconds in prop::collection::vec(0_f32..1e5, 1..700),
        host in "[a-z0-9.:]{1,60}",
        tags in prop::collection::vec("[a-z]{1,8}:[a-z]{1,12}", 0..4),
        limit in 256_usize..2000,
    ) {
        let runtime = runtime();
        let _guard = runtime.enter();
        let tags: Vec<_> = tags.iter().map(String::as_str).collect();
        let output = || output(Format::Dogstatsd, limit);
        let mut bench = Bench::over(&durations(), &tags, output(), output());
        let lasted = lasted(&host, Outbound, Tcp, &seconds);
        let (kept, of) = lasted.activity.durations.samples().next().unwrap();
        let kept: Vec<_> = kept.iter().map(|&seconds| f64::from(seconds)).collect();
        prop_assert_eq!(of, seconds.len() as u64);
        let count = |number: usize| f64::from(u32::try_from(number).unwrap());
        let (tagged, plain) = runtime.block_on(bench.tick(Some(&active(vec![lasted]))));
        for lines in [tagged, plain] {
            let mut sent: Vec<f64> = Vec::new();
            for line in &lines {
                prop_assert!(line.len() < limit.min(1024), "{} bytes", line.len());
                let (values, rest) = line.split_once('|').unwrap();
                sent.extend(values.split(':').skip(1).map(|v| v.parse::<f64>().unwrap()));
                let rate = rest.split('|').find_map(|field| field.strip_prefix('@'));
                let rate: f64 = rate.map_or(1.0, |rate| rate.parse().unwrap());
                let stand_for = count(kept.len()) / rate;
                prop_assert!((stand_for - count(seconds.len())).abs() < 1e-6, "{rate}");
            }
            prop_assert_eq!(sent.len(), kept.len());
            for (sent, kept) in sent.iter().zip(&kept) {
                prop_assert!((sent - kept).abs() <= 0.000_501, "{sent} for {kept}");
            }
        }
    }
}
