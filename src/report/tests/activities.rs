//! Counters of what happened since the last tick.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::strict::runtime;
use super::*;
use crate::flow::Direction::{Inbound, Outbound};
use crate::flow::Failure;
use crate::flow::Protocol::{Tcp, Udp};

fn rates() -> config::Report {
    config::Report {
        rates: true,
        ..nothing()
    }
}

fn traffic() -> config::Report {
    config::Report {
        traffic: true,
        ..nothing()
    }
}

/// Two hosts, one of them in two directions and protocols.
fn busy() -> Vec<HostActivity> {
    let mut web = activity("web", Outbound, Tcp);
    web.activity.opened = 5;
    web.activity.closed = 3;
    web.activity.failed = [1, 2, 0, 0];
    let mut dns = activity("web", Outbound, Udp);
    dns.activity.opened = 10;
    dns.activity.failed = [0, 4, 0, 0];
    let mut back = activity("web", Inbound, Tcp);
    back.activity.closed = 7;
    back.activity.failed = [0, 1, 1, 0];
    let mut db = activity("db", Outbound, Tcp);
    db.activity.opened = 1;
    db.activity.failed = [0, 0, 0, 6];
    vec![web, dns, back, db]
}

#[tokio::test]
async fn what_opened_closed_and_failed_is_counted_with_its_tags() {
    let mut bench = Bench::new(&rates(), &["env:prod"]);
    let (tagged, plain) = bench.tick(Some(&active(busy()))).await;
    assert_eq!(
        tagged,
        [
            "conntrack.opened:1|c|#env:prod,remote_host:db,protocol:tcp,direction:outbound",
            "conntrack.failed:6|c|#env:prod,remote_host:db,direction:outbound,reason:unreachable",
            "conntrack.opened:5|c|#env:prod,remote_host:web,protocol:tcp,direction:outbound",
            "conntrack.closed:3|c|#env:prod,remote_host:web,protocol:tcp,direction:outbound",
            "conntrack.opened:10|c|#env:prod,remote_host:web,protocol:udp,direction:outbound",
            "conntrack.closed:7|c|#env:prod,remote_host:web,protocol:tcp,direction:inbound",
            "conntrack.failed:1|c|#env:prod,remote_host:web,direction:outbound,reason:refused",
            "conntrack.failed:6|c|#env:prod,remote_host:web,direction:outbound,reason:timeout",
            "conntrack.failed:1|c|#env:prod,remote_host:web,direction:inbound,reason:timeout",
            "conntrack.failed:1|c|#env:prod,remote_host:web,direction:inbound,reason:reset",
        ]
    );
    assert_eq!(
        plain,
        [
            "conntrack.opened:1|c|#remote_host:db",
            "conntrack.failed:6|c|#remote_host:db,reason:unreachable",
            "conntrack.opened:15|c|#remote_host:web",
            "conntrack.closed:10|c|#remote_host:web",
            "conntrack.failed:1|c|#remote_host:web,reason:refused",
            "conntrack.failed:7|c|#remote_host:web,reason:timeout",
            "conntrack.failed:1|c|#remote_host:web,reason:reset",
        ]
    );
}

#[tokio::test]
async fn bytes_and_packets_are_counted_by_host_and_way() {
    let mut one = activity("web", Outbound, Tcp);
    one.activity.sent.add(Traffic {
        packets: 2,
        bytes: 300,
    });
    let mut two = activity("web", Inbound, Udp);
    two.activity.sent.add(Traffic {
        packets: 1,
        bytes: 40,
    });
    two.activity.received.add(Traffic {
        packets: 9,
        bytes: u64::from(u32::MAX) + 1,
    });
    let mut bench = Bench::new(&traffic(), &[]);
    let (tagged, plain) = bench.tick(Some(&active(vec![one, two]))).await;
    assert_eq!(
        tagged,
        [
            "conntrack.bytes:340|c|#remote_host:web,way:sent",
            "conntrack.bytes:4294967296|c|#remote_host:web,way:received",
            "conntrack.packets:3|c|#remote_host:web,way:sent",
            "conntrack.packets:9|c|#remote_host:web,way:received",
        ]
    );
    assert_eq!(plain, tagged);
}

#[tokio::test]
async fn counters_that_are_zero_have_no_line() {
    let every = config::Report {
        traffic: true,
        durations: true,
        ..rates()
    };
    let mut bench = Bench::new(&every, &[]);
    bench.tick(Some(&active(busy()))).await;
    let quiet = active(vec![activity("web", Outbound, Tcp)]);
    assert_eq!(bench.tick(Some(&quiet)).await, (vec![], vec![]));
    assert_eq!(bench.tick(None).await, (vec![], vec![]));
}

#[tokio::test]
async fn outputs_without_tags_have_host_and_reason_in_the_name() {
    let settings = config::Report {
        traffic: true,
        ..rates()
    };
    let plain = output(Format::Statsd, 8192);
    let mut bench = Bench::over(
        &settings,
        &["env:prod"],
        output(Format::Influx, 8192),
        plain,
    );
    let mut web = activity("10.0.0.5", Outbound, Tcp);
    web.activity.opened = 2;
    web.activity.failed[Failure::Reset as usize] = 1;
    web.activity.received.bytes = 9;
    let (influx, statsd) = bench.tick(Some(&active(vec![web]))).await;
    assert_eq!(
        statsd,
        [
            "conntrack.opened.10_0_0_5:2|c",
            "conntrack.failed.10_0_0_5.reset:1|c",
            "conntrack.bytes.10_0_0_5.received:9|c",
        ]
    );
    assert_eq!(
        influx,
        [
            "conntrack.opened,env=prod,remote_host=10.0.0.5,protocol=tcp,direction=outbound:2|c",
            "conntrack.failed,env=prod,remote_host=10.0.0.5,direction=outbound,reason=reset:1|c",
            "conntrack.bytes,env=prod,remote_host=10.0.0.5,way=received:9|c",
        ]
    );
}

#[tokio::test]
async fn increments_come_before_gauges_that_can_be_told_again() {
    let mut bench = Bench::connections();
    let mut both = snapshot(vec![row("a", Open, 1)]);
    both.connections.activities = active(busy()).connections.activities;
    let (lines, _) = bench.tick(Some(&both)).await;
    assert!(lines[..10].iter().all(|line| line.contains("|c|")));
    assert!(lines[10..].iter().all(|line| line.contains("|g")));
}

/// The value of each counter by its name and tags.
fn counters(lines: &[String]) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    for line in lines {
        let (name, rest) = line.split_once(':').unwrap();
        let (value, tags) = rest.split_once("|c|").unwrap();
        let before = counters.insert(format!("{name}{tags}"), value.parse().unwrap());
        assert_eq!(before, None, "{line} is there twice");
    }
    counters
}

prop_compose! {
    fn any_activity()(
        opened in 0_u64..1000,
        closed in 0_u64..1000,
        failed in prop::array::uniform4(0_u64..100),
        sent in (0_u64..1 << 40, 0_u64..1 << 50),
        received in (0_u64..1 << 40, 0_u64..1 << 50),
    ) -> Activity {
        let traffic = |(packets, bytes)| Traffic { packets, bytes };
        Activity {
            opened,
            closed,
            failed,
            sent: traffic(sent),
            received: traffic(received),
            ..Activity::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// With tags and without, each counter adds up to what happened, no series
    /// comes twice, and the next tick has the same lines in the same order.
    #[test]
    fn prop_counters_add_up_in_both_lanes_in_a_stable_order(
        activities in prop::collection::btree_map(
            (0_u8..4, any::<bool>(), prop::sample::select(&Protocol::ALL[..])),
            any_activity(),
            0..20,
        ),
    ) {
        let runtime = runtime();
        let _guard = runtime.enter();
        let mut total = Activity::default();
        let mut list = Vec::new();
        for ((host, inbound, protocol), each) in activities {
            total.add(&each);
            let direction = if inbound { Inbound } else { Outbound };
            list.push(HostActivity {
                activity: each,
                ..activity(&host.to_string(), direction, protocol)
            });
        }
        let snapshot = active(list);
        let settings = config::Report { traffic: true, ..rates() };
        let mut bench = Bench::new(&settings, &[]);
        let first = runtime.block_on(bench.tick(Some(&snapshot)));
        let second = runtime.block_on(bench.tick(Some(&snapshot)));
        prop_assert_eq!(&first, &second);
        for lines in [first.0, first.1] {
            let counters = counters(&lines);
            let sum = |name: &str, tag: &str| -> u64 {
                let of = |(series, _): &(&String, &u64)| {
                    series.starts_with(&format!("conntrack.{name}#")) && series.ends_with(tag)
                };
                counters.iter().filter(of).map(|(_, value)| value).sum()
            };
            prop_assert_eq!(sum("opened", ""), total.opened);
            prop_assert_eq!(sum("closed", ""), total.closed);
            for failure in Failure::ALL {
                let reason = format!("reason:{failure}");
                prop_assert_eq!(sum("failed", &reason), total.failed[failure as usize]);
            }
            for (way, traffic) in [("way:sent", total.sent), ("way:received", total.received)] {
                prop_assert_eq!(sum("bytes", way), traffic.bytes);
                prop_assert_eq!(sum("packets", way), traffic.packets);
            }
        }
    }
}
