//! Merging and giving back, against what sending directly would have told.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::message::{Message, MetricKind, check, line_strategy};

mod ticks;

const LIMITS: Limits = Limits {
    contexts: 1000,
    bytes: 4 << 20,
    line_bytes: 1432,
    values_bytes: VALUES_BYTES,
    tick_seconds: 10,
};

fn sender(id: u32) -> Sender {
    Sender {
        source: LineSource::Listeners,
        id: SenderId::of_process(id),
    }
}

const AGENT: Sender = Sender {
    source: LineSource::Collector,
    id: OWN,
};

fn backlog(limits: Limits) -> Backlog {
    Backlog::with_seed(limits, RandomState::default(), 7)
}

/// All that it gives back.
fn drained(backlog: &mut Backlog) -> String {
    let mut to = Vec::new();
    backlog.drain(Portion::of_bytes(usize::MAX), &mut to, |_| false, |_| {});
    assert!(backlog.is_empty());
    assert_eq!((backlog.len(), backlog.bytes()), (0, 0));
    String::from_utf8(to).unwrap()
}

/// What comes back of these lines.
fn merged(lines: &str) -> String {
    let mut backlog = backlog(LIMITS);
    assert_eq!(
        backlog
            .merge(lines.as_bytes(), sender(1), None)
            .dropped
            .total(),
        0
    );
    drained(&mut backlog)
}

#[test]
fn counts_are_added_with_their_rates_applied() {
    assert_eq!(
        merged("a:1|c|#x\na:2|c|@0.5|#x\na:3:4|c|#x\n"),
        "a:12|c|#x\n"
    );
    assert_eq!(merged("a:0.5|c\na:0.25|c\n"), "a:0.75|c\n");
    let whole = "a:9007199254740993|c\na:1|c\n";
    assert_eq!(merged(whole), "a:9007199254740994|c\n");
}

#[test]
fn a_line_alone_in_its_context_comes_back_as_it_was() {
    let lines = "a:1.50:+2::3|ms|@0.10|#b,a|c:x\nb:1|c|@0.5\ns:x:y|s\ng:-5|g|zz\n";
    assert_eq!(merged(lines), lines);
}

#[test]
fn the_order_of_tags_and_known_fields_makes_no_other_context() {
    assert_eq!(
        merged("a:1|c|#x,y|c:1|e:2\na:1|c|e:2|#y,x|c:1\na:1|c|#x,y|c:2|e:2\n"),
        "a:2|c|#x,y|c:1|e:2\na:1|c|#x,y|c:2|e:2\n"
    );
}

#[test]
fn gauges_keep_the_last_value_and_changes_their_order() {
    assert_eq!(merged("a:1|g\na:2.50|g\n"), "a:2.50|g\n");
    assert_eq!(
        merged("a:5|g\na:+3|g\na:-2|g\na:-4|g\n"),
        "a:5|g\na:+1|g\na:-4|g\n"
    );
    assert_eq!(merged("a:+3|g\na:-2|g\na:-4|g\n"), "a:+1|g\na:-4|g\n");
    assert_eq!(merged("a:+3|g\na:-2|g\na:7|g\n"), "a:7|g\n");
}

#[test]
fn sets_are_united() {
    assert_eq!(merged("a:x|s\na:y|s\na:x|s\n"), "a:x|s\na:y|s\n");
}

#[test]
fn a_set_takes_so_many_members_and_counts_the_others() {
    let mut backlog = backlog(LIMITS);
    let lines: Vec<String> = (0..1030).map(|member| format!("a:{member}|s\n")).collect();
    let merged = backlog.merge(lines.concat().as_bytes(), sender(1), None);
    assert_eq!(merged.dropped.by_reason()[3], (LineDrop::BacklogSet, 6));
    assert_eq!(drained(&mut backlog).lines().count(), 1024);
}

#[test]
fn values_of_one_rate_are_packed() {
    assert_eq!(
        merged("a:1|h|@0.5\na:2.0|h|@0.5\na:3|h|@0.50\na:4|h\n"),
        "a:1:2.0|h|@0.5\na:3|h|@0.50\na:4|h\n"
    );
}

#[test]
fn what_never_merges_keeps_its_order() {
    let lines = "a:1|c|T5\n_e{1,1}:a|b\na:1|c|T5\n_sc|x|0\n_e{1,1}:a|b\n";
    assert_eq!(merged(lines), lines);
}

#[test]
fn a_sender_with_less_than_its_share_takes_the_place_of_the_one_with_most() {
    let limits = Limits {
        contexts: 10,
        ..LIMITS
    };
    let mut backlog = backlog(limits);
    let lines: Vec<String> = (0..12).map(|name| format!("a{name}:1|c\n")).collect();
    let taken = backlog.merge(lines.concat().as_bytes(), sender(1), None);
    assert_eq!(
        (taken.dropped.full, backlog.contexts()),
        (3, 9),
        "a tenth is the agent's"
    );
    let taken = backlog.merge(b"b:1|c\nc:1|c\nd:1|c\ne:1|c\nf:1|c\n", sender(2), None);
    assert_eq!((taken.dropped.evicted, taken.dropped.full), (4, 1));
    let taken = backlog.merge(b"own:1|g\nmore:1|g\n", AGENT, None);
    assert_eq!(taken.dropped.full, 1);
    assert_eq!(
        drained(&mut backlog),
        "a0:1|c\na1:1|c\na2:1|c\na3:1|c\na4:1|c\nb:1|c\nc:1|c\nd:1|c\ne:1|c\nown:1|g\n"
    );
}

#[test]
fn only_so_many_senders_are_told_apart() {
    let mut backlog = backlog(Limits {
        contexts: 100_000,
        ..LIMITS
    });
    let mut bytes = Vec::new();
    for id in 1..=5000 {
        let before = backlog.bytes();
        let taken = backlog.merge(format!("a{id:04}:1|c\n").as_bytes(), sender(id), None);
        assert_eq!(taken.dropped.total(), 0);
        bytes.push(backlog.bytes() - before);
    }
    // Those behind bring a context alone.
    assert!(bytes[1024] < bytes[1023]);
    assert!(bytes[..1024].iter().all(|&one| one == bytes[0]));
    assert!(bytes[1024..].iter().all(|&one| one == bytes[1024]));
    assert_eq!(drained(&mut backlog).lines().count(), 5000);
    assert_eq!(backlog.bytes(), 0);
}

#[test]
fn it_gives_back_so_many_bytes_at_a_time() {
    let mut backlog = backlog(LIMITS);
    backlog.merge(
        b"a:1|s\na:2|s\na:3|s\na:3|s\nb:1|c\nb:1|c\n",
        sender(1),
        None,
    );
    backlog.merge(b"c:1|c\n", AGENT, None);
    let (mut to, mut runs) = (Vec::new(), Vec::new());
    let given = backlog.drain(Portion::of_bytes(7), &mut to, |_| false, |_| {});
    assert_eq!(
        (&to[..], given.lines, backlog.len()),
        (&b"a:1|s\na:2|s\n"[..], 2, 5)
    );
    let given = backlog.drain(
        Portion::of_bytes(usize::MAX),
        &mut to,
        |_| false,
        |run| {
            runs.push((run.source, run.lines, run.bytes));
        },
    );
    assert_eq!((given.lines, given.merged_away), (3, 2));
    assert_eq!(
        runs,
        [
            (LineSource::Listeners, 2, 12),
            (LineSource::Collector, 1, 6)
        ]
    );
}

/// What a receiver makes of lines: count sums, a gauge read both ways, members, values.
#[derive(Debug, Default)]
struct Told {
    counts: BTreeMap<String, f64>,
    gauges: BTreeMap<String, (f64, Option<f64>)>,
    members: BTreeSet<(String, Vec<u8>)>,
    values: BTreeMap<String, Vec<u64>>,
    events: Vec<String>,
}

fn told(lines: &str) -> Told {
    let mut told = Told::default();
    for line in lines.lines() {
        match Message::parse(line.as_bytes()).unwrap() {
            Message::Metric(metric) if metric.timestamp.is_none() => {
                let mut tags: Vec<_> = metric.tags.iter().collect();
                tags.sort_unstable();
                let key = format!(
                    "{:?} {:?} {tags:?} {:?}",
                    metric.name, metric.kind, metric.container
                );
                match metric.kind {
                    MetricKind::Count => {
                        let sum: f64 = metric.numbers().sum();
                        *told.counts.entry(key).or_default() += sum / metric.sample_rate();
                    }
                    MetricKind::Gauge => {
                        let (level, last) = told.gauges.entry(key).or_default();
                        let value = metric.numbers().last().unwrap();
                        let is_change = matches!(metric.values, [b'+' | b'-', ..]);
                        *level = if is_change { *level + value } else { value };
                        *last = Some(value);
                    }
                    MetricKind::Set => {
                        told.members.insert((key, metric.values.to_vec()));
                    }
                    _ => {
                        let key = format!("{key} {:?}", metric.rate);
                        let values = told.values.entry(key).or_default();
                        values.extend(metric.numbers().map(f64::to_bits));
                        values.sort_unstable();
                    }
                }
            }
            _ => told.events.push(line.to_owned()),
        }
    }
    told
}

/// Lines of few contexts.
fn few() -> impl Strategy<Value = String> {
    let tags = prop::sample::select(&["", "|#x,y", "|#y,x", "|#x|c:1", "|c:1|#x"][..]);
    let rate = prop::sample::select(&["", "|@0.5", "|@0.1"][..]);
    let value = prop::sample::select(&["1", "2.5", "-3", "+4", "100", "1:2:3"][..]);
    prop_oneof![
        8 => ("[ab]", value, "c|h|ms|d|s", rate, tags.clone())
            .prop_map(|(name, value, kind, rate, tags)| format!("{name}:{value}|{kind}{rate}{tags}\n")),
        3 => ("[ab]", "[+-]?[0-9]", tags)
            .prop_map(|(name, value, tags)| format!("{name}:{value}|g{tags}\n")),
        1 => "[a-z]".prop_map(|text| format!("_e{{1,1}}:{text}|b\n")),
        1 => "a:[0-9]\\|c\\|T5\n",
    ]
}

proptest! {
    /// What comes back tells what the lines told, and each of it is a message.
    #[test]
    fn prop_merging_tells_the_same(lines in prop::collection::vec(few(), 0..60)) {
        let lines = lines.concat();
        let back = merged(&lines);
        for line in back.lines() {
            prop_assert!(check(line.as_bytes()).is_ok(), "{line}");
        }
        let (before, after) = (told(&lines), told(&back));
        prop_assert_eq!(before.counts.keys().collect::<Vec<_>>(), after.counts.keys().collect::<Vec<_>>());
        for (key, sum) in &before.counts {
            prop_assert!((sum - after.counts[key]).abs() < 1e-9, "{key}: {sum}");
        }
        prop_assert_eq!(before.gauges, after.gauges);
        prop_assert_eq!(before.members, after.members);
        prop_assert_eq!(before.values, after.values);
        prop_assert_eq!(before.events, after.events);
    }

    /// Lines that came = given back + merged away + dropped + held, at any time, and no
    /// limit is passed, and no line is longer than it may be unless it came so.
    #[test]
    fn prop_every_line_is_accounted_for(
        steps in prop::collection::vec(
            (prop::collection::vec(prop_oneof![few(), line_strategy().prop_map(|line| line + "\n")], 0..12), 0..5_u32, 0..400_usize, 0_u32..5),
            0..12,
        ),
        contexts in 1..40_usize,
        bytes in 200..12_000_usize,
        line_bytes in 1..400_usize,
    ) {
        let limits = Limits { contexts, bytes, line_bytes, ..LIMITS };
        let mut backlog = backlog(limits);
        let (mut came, mut gone, mut longest) = (0, 0, line_bytes);
        for (lines, id, room, at) in steps {
            let from = if id == 0 { AGENT } else { sender(id) };
            longest = lines.iter().map(|line| line.len() - 1).fold(longest, usize::max);
            let merged = backlog.merge(lines.concat().as_bytes(), from, NonZeroU32::new(at * 10).map(Tick));
            prop_assert_eq!(merged.lines, lines.len() as u64);
            came += merged.lines;
            gone += merged.dropped.total();
            prop_assert_eq!(came, gone + backlog.len());
            prop_assert!(backlog.contexts() <= contexts && backlog.bytes() <= bytes);
            let mut to = Vec::new();
            let mut in_runs = (0, 0);
            let given = backlog.drain(Portion::of_bytes(room), &mut to, |Tick(at)| at.get() % 20 == 0, |run| {
                in_runs = (in_runs.0 + run.lines, in_runs.1 + run.bytes);
            });
            gone += given.lines + given.merged_away;
            prop_assert_eq!(in_runs, (given.lines, to.len()));
            prop_assert_eq!(came, gone + backlog.len());
            for line in to.split_inclusive(|&byte| byte == b'\n') {
                prop_assert!(check(&line[..line.len() - 1]).is_ok() && line.len() - 1 <= longest + "|T40".len());
            }
        }
        gone += backlog.clear();
        prop_assert_eq!(came, gone);
        prop_assert!(backlog.is_empty());
    }

    /// No bytes make it panic, or lose the account.
    #[test]
    fn prop_any_bytes_are_taken(
        lines in prop::collection::vec(prop_oneof!["[ab:|#@Tcghs0-9.,+\n-]{0,40}".prop_map(String::into_bytes), any::<Vec<u8>>()], 0..8),
    ) {
        let mut backlog = backlog(LIMITS);
        let lines = lines.join(&b'\n');
        let merged = backlog.merge(&lines, sender(1), None);
        let held = backlog.len();
        let given = backlog.drain(Portion::of_bytes(usize::MAX), &mut Vec::new(), |_| false, |_| {});
        prop_assert_eq!(merged.lines, merged.dropped.total() + held);
        prop_assert_eq!(held, given.lines + given.merged_away);
    }
}

/// Estimated count and sum of what comes back of the values 0.. of one context.
fn estimate(number: u32, seed: u64, limits: Limits) -> (f64, f64) {
    let mut backlog = Backlog::with_seed(limits, RandomState::default(), seed);
    for value in 0..number {
        let line = format!("a:{value}|d|@0.5\n");
        assert_eq!(
            backlog
                .merge(line.as_bytes(), sender(1), None)
                .dropped
                .total(),
            0
        );
        assert!(backlog.bytes() <= limits.bytes);
    }
    let (mut count, mut sum) = (0.0, 0.0);
    for line in drained(&mut backlog).lines() {
        assert!(line.len() <= limits.line_bytes);
        let Ok(Message::Metric(metric)) = Message::parse(line.as_bytes()) else {
            panic!("{line}");
        };
        for value in metric.numbers() {
            count += 1.0 / metric.sample_rate();
            sum += value / metric.sample_rate();
        }
    }
    (count, sum)
}

#[test]
fn beyond_the_bound_count_and_sum_stay_unbiased() {
    let tight = Limits {
        bytes: 900,
        ..LIMITS
    };
    for (number, limits, rounds, tolerance) in
        [(5003, LIMITS, 200_u32, 0.002), (203, tight, 2000, 0.02)]
    {
        let (mut count, mut sum) = (0.0, 0.0);
        for seed in 0..rounds {
            let (one_count, one_sum) = estimate(number, seed.into(), limits);
            count += one_count / f64::from(rounds);
            sum += one_sum / f64::from(rounds);
        }
        let true_count = 2.0 * f64::from(number);
        let true_sum = f64::from(number) * f64::from(number - 1);
        assert!(
            (count / true_count - 1.0).abs() < tolerance,
            "{count} of {true_count}"
        );
        assert!(
            (sum / true_sum - 1.0).abs() < tolerance,
            "{sum} of {true_sum}"
        );
    }
}

#[test]
fn a_hundred_thousand_contexts_take_less_than_32_mib() {
    let mut backlog = backlog(Limits {
        contexts: 200_000,
        bytes: 64 << 20,
        ..LIMITS
    });
    for number in 0..100_000 {
        let line = format!(
            "app.requests.{number:06}:1|c|#env:prod,service:checkout,version:1.4.2,region:eu-west-1,status:200,pod:{number:08}\n"
        );
        backlog.merge(line.as_bytes(), sender(1), None);
        backlog.merge(line.as_bytes(), sender(2), None);
    }
    assert_eq!(backlog.contexts(), 100_000);
    assert!(backlog.bytes() < 32 << 20, "{}", backlog.bytes());
}
