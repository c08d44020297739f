//! What holds of every line, whatever it is made of.

use proptest::prelude::*;
use tokio::runtime::{Builder, Runtime};

use super::*;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

/// `name:value|type[|#tag,…]`, with nothing in it that a server could trip over.
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
    let mut fields = rest.split('|');
    let value = fields.next().unwrap_or_default();
    let kind = fields.next().unwrap_or_default();
    let tags = fields
        .next()
        .map_or(Some(""), |tags| tags.strip_prefix('#'));
    name_ok(name)
        && value.parse::<u64>().is_ok()
        && matches!(kind, "g" | "c")
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
    ) {
        let settings = config::Report { prefix, ..config::Report::default() };
        let tags: Vec<_> = tags.iter().map(String::as_str).collect();
        let runtime = runtime();
        let _guard = runtime.enter();
        let mut bench = Bench::new(&settings, &tags);
        bench.telemetry.listeners.push((address.clone(), Arc::default()));
        bench.telemetry.outputs.push((address, Arc::default()));
        // As they come out of Hosts::name.
        let rows = names.iter().map(|name| row(&text::clean(name), Open, 1)).collect();
        let snapshot = Snapshot { kernel: vec![("drop", 1)], ..snapshot(rows) };
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
