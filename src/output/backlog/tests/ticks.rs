//! Lines given back with the time that they came in.

use super::*;

fn tick(seconds: u32) -> Option<Tick> {
    NonZeroU32::new(seconds).map(Tick)
}

/// What comes back of lines and their ticks, where these ticks are free.
fn pointed(lines: &[(&str, u32)], is_free: impl Fn(u32) -> bool) -> String {
    let mut backlog = backlog(LIMITS);
    for &(line, at) in lines {
        let merged = backlog.merge(line.as_bytes(), sender(1), tick(at));
        assert_eq!(merged.dropped.total(), 0);
    }
    let mut to = Vec::new();
    let portion = Portion::of_bytes(usize::MAX);
    backlog.drain(portion, &mut to, |Tick(at)| is_free(at.get()), |_| {});
    assert_eq!((backlog.len(), backlog.bytes()), (0, 0));
    String::from_utf8(to).unwrap()
}

#[test]
fn counts_and_gauges_come_back_as_one_point_a_tick() {
    let lines = [
        ("a:1|c|#x\na:2:3|c|@0.5|#x\ng:1|g\ng:+7|g|c:1\n", 1000),
        ("a:4|c|#x\ng:2:3|g\nh:5|h\n", 1010),
        ("h:6|h\nonce:1:1|c|@0.1\n", 1010),
    ];
    assert_eq!(
        pointed(&lines, |_| true),
        "a:11|c|#x|T1000\ng:1|g|T1000\ng:+7|g|c:1|T1000\n\
         a:4|c|#x|T1010\ng:3|g|T1010\nh:5:6|h\nonce:20|c|T1010\n"
    );
}

#[test]
fn a_tick_that_is_not_free_is_not_told() {
    let lines = [("a:1|c\na:1|c\ng:+7|g\n", 1000), ("a:2|c\n", 1010)];
    assert_eq!(
        pointed(&lines, |at| at == 1010),
        "a:2|c\ng:+7|g\na:2|c|T1010\n"
    );
}

#[test]
fn an_outage_of_any_length_costs_no_count_and_no_more_room() {
    const CONTEXTS: usize = 50;
    const TICKS: u32 = 5_000;
    let limits = Limits {
        contexts: 2_000,
        ..LIMITS
    };
    let mut backlog = backlog(limits);
    for at in (1..=TICKS).map(|number| number * 10) {
        for context in 0..CONTEXTS {
            let lines = format!("c{context}:1|c\ng{context}:{at}|g\n");
            let merged = backlog.merge(lines.as_bytes(), sender(1), tick(at));
            assert_eq!(merged.dropped.total(), 0);
        }
        assert!(backlog.contexts() <= limits.contexts && backlog.bytes() <= limits.bytes);
    }
    let mut to = Vec::new();
    let given = backlog.drain(Portion::of_bytes(usize::MAX), &mut to, |_| true, |_| {});
    let lines = u64::from(TICKS) * 2 * CONTEXTS as u64;
    assert_eq!(given.lines + given.merged_away, lines);
    let mut sums = BTreeMap::<String, f64>::new();
    let mut points = BTreeSet::new();
    for line in String::from_utf8(to).unwrap().lines() {
        let Ok(Message::Metric(metric)) = Message::parse(line.as_bytes()) else {
            panic!("{line}");
        };
        let name = String::from_utf8(metric.name.to_vec()).unwrap();
        let value = metric.numbers().next().unwrap();
        let at = metric.timestamp.unwrap();
        if metric.kind == MetricKind::Gauge {
            assert_eq!(value.to_string(), at.to_string(), "the last of its period");
        }
        assert!(points.insert((name.clone(), at)), "{line} comes twice");
        *sums.entry(name).or_default() += value;
    }
    for context in 0..CONTEXTS {
        assert!((sums[&format!("c{context}")] - f64::from(TICKS)).abs() < 0.1);
    }
    // It is told in as much detail as there was room for.
    assert!(points.len() > limits.contexts / 4, "{}", points.len());
}

proptest! {
    /// With ticks as without: what comes back tells the same, each point once.
    #[test]
    fn prop_points_tell_the_same(
        lines in prop::collection::vec((few(), 1_u32..30), 0..80),
        contexts in 30_usize..200,
    ) {
        let mut backlog = backlog(Limits { contexts, ..LIMITS });
        let mut all = String::new();
        let mut dropped = 0;
        let mut at = 0;
        for (line, step) in &lines {
            at += step / 8 * 10;
            dropped += backlog.merge(line.as_bytes(), sender(1), tick(at)).dropped.total();
            all += line;
        }
        prop_assert_eq!(backlog.len() + dropped, lines.len() as u64);
        let mut to = Vec::new();
        backlog.drain(Portion::of_bytes(usize::MAX), &mut to, |_| true, |_| {});
        let back = String::from_utf8(to).unwrap();
        let mut points = BTreeSet::new();
        let mut counts = BTreeMap::<String, f64>::new();
        for line in back.lines() {
            prop_assert!(check(line.as_bytes()).is_ok(), "{line}");
            // The lines of the sender's own time are told apart by that.
            if let Some((head, time)) = line.rsplit_once("|T").filter(|(_, time)| *time != "5") {
                let Ok(Message::Metric(metric)) = Message::parse(head.as_bytes()) else {
                    panic!("{line}");
                };
                let mut tags: Vec<_> = metric.tags.iter().collect();
                tags.sort_unstable();
                let key = format!("{:?} {:?} {tags:?} {:?}", metric.name, metric.kind, metric.container);
                prop_assert!(points.insert((key.clone(), time.to_owned())), "{line}");
                if metric.kind == MetricKind::Count {
                    *counts.entry(key).or_default() += metric.numbers().sum::<f64>();
                }
            }
        }
        for (key, sum) in &told(&back).counts {
            *counts.entry(key.clone()).or_default() += sum;
        }
        if dropped == 0 {
            for (key, sum) in &told(&all).counts {
                prop_assert!((sum - counts[key]).abs() < 1e-9, "{key}: {sum}");
            }
        }
    }
}
