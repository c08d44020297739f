//! What holds of every line, whatever it is made of.

use proptest::prelude::*;
use tokio::runtime::{Builder, Runtime};

use super::*;

pub(super) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

/// `name:value[:value…]|type[|@rate][|#tag,…]`, with nothing in it that a server could trip over.
fn is_strict(line: &str) -> bool {
    let name_ok = |name: &str| {
        !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    let tag_ok = |tag: &str| {
        let key = tag.split(':').next().unwrap_or_default();
        !key.is_empty()
            && key != "host"
            && !tag.contains(|c: char| c.is_control() || c.is_whitespace() || "|,#".contains(c))
    };
    let Some((name, rest)) = line.split_once(':') else {
        return false;
    };
    let mut fields = rest.split('|').peekable();
    let values = fields.next().unwrap_or_default();
    let kind = fields.next().unwrap_or_default();
    let number = |text: &str| text.parse::<f64>().is_ok_and(f64::is_finite);
    let values_ok = match kind {
        "g" | "c" => values.parse::<u64>().is_ok(),
        "d" => values
            .split(':')
            .all(|value| number(value) && !value.starts_with('-')),
        _ => false,
    };
    let rate = fields.next_if(|field| kind == "d" && field.starts_with('@'));
    let rate_ok = rate.is_none_or(|rate| {
        let rate: Option<f64> = rate.strip_prefix('@').and_then(|rate| rate.parse().ok());
        rate.is_some_and(|rate| rate > 0.0 && rate < 1.0)
    });
    let tags = fields
        .next()
        .map_or(Some(""), |tags| tags.strip_prefix('#'));
    name_ok(name)
        && values_ok
        && rate_ok
        && tags.is_some_and(|tags| tags.is_empty() || tags.split(',').all(tag_ok))
        && fields.next().is_none()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever groups, tags, addresses and prefixes are called, each line is one
    /// strict `DogStatsD` line with one newline at its end.
    #[test]
    fn prop_every_line_is_strict(
        prefix in ".{0,12}",
        tags in prop::collection::vec(".{0,12}", 0..4),
        names in prop::collection::vec(".{0,12}", 0..8),
        address in ".{0,20}",
        netns in prop::option::of(".{0,12}"),
        seconds in prop::collection::vec(any::<f32>(), 0..300),
    ) {
        let settings = config::Report {
            prefix,
            traffic: true,
            durations: true,
            ..config::Report::default()
        };
        let tags: Vec<_> = tags.iter().map(String::as_str).collect();
        let runtime = runtime();
        let _guard = runtime.enter();
        let mut bench = Bench::new(&settings, &tags);
        bench.telemetry.listeners.push((address.clone(), Arc::default()));
        bench.telemetry.outputs.push((address, Arc::default()));
        bench.reporter = bench.reporter.telling_of(&[config::Output::default()]);
        // As they come out of Hosts::name.
        let rows = names.iter().map(|name| row(&text::clean(name), Open, 1)).collect();
        let mut snapshot = Snapshot {
            netns: netns.map(Into::into),
            kernel: vec![("drop", 1)],
            ..snapshot(rows)
        };
        for name in &names {
            let mut busy = activity(&text::clean(name), Direction::Inbound, Protocol::Udp);
            busy.activity.opened = 1;
            busy.activity.failed = [1; 4];
            busy.activity.sent.bytes = u64::MAX;
            for &seconds in &seconds {
                busy.activity.durations.push(seconds);
            }
            snapshot.connections.activities.push(busy);
        }
        let (tagged, plain) = runtime.block_on(bench.tick(Some(&snapshot)));
        for line in tagged.iter().chain(&plain) {
            prop_assert!(is_strict(line), "{line:?}");
        }
    }

    /// Sums over all lines are sums over all rows, with tags and without.
    #[test]
    fn prop_lines_add_up_to_the_rows(
        rows in prop::collection::btree_map((0_u8..6, 0_usize..4, any::<bool>()), 1_u64..100, 0..30),
    ) {
        let runtime = runtime();
        let _guard = runtime.enter();
        let mut bench = Bench::connections();
        let total: u64 = rows.values().sum();
        let rows = rows
            .into_iter()
            .map(|((host, state, inbound), connections)| Row {
                direction: if inbound { Direction::Inbound } else { Direction::Outbound },
                ..row(&host.to_string(), ConnectionState::ALL[state], connections)
            })
            .collect();
        let (tagged, plain) = runtime.block_on(bench.tick(Some(&snapshot(rows))));
        for lines in [tagged, plain] {
            let sum: u64 = lines
                .iter()
                .filter_map(|line| line.strip_prefix("conntrack.connections:"))
                .filter_map(|line| line.split('|').next()?.parse::<u64>().ok())
                .sum();
            prop_assert_eq!(sum, total);
        }
    }
}
