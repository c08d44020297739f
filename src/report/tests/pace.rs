use tokio::time::advance;

use super::*;

const HALF: Duration = Duration::from_secs(5);
/// What goes between two pauses, and a line.
const PORTION_BYTES: usize = (32 << 10) + 1024;
/// What goes before the first, and a line.
const AT_ONCE_BYTES: usize = (64 << 10) + 1024;

fn hosts(count: usize) -> Snapshot {
    let states = [Opening, Open, Closing, ConnectionState::Closed];
    let rows = (0..count).flat_map(|n| {
        let host = format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255);
        states.map(|state| row(&host, state, 1 + n as u64))
    });
    snapshot(rows.collect())
}

/// What comes out of a report, and when: each time that the clock moves. The first two
/// are of what goes at once, which gives the runtime its turns.
async fn told(bench: &mut Bench, snapshot: &Snapshot) -> Vec<(Duration, Vec<String>)> {
    let Bench {
        reporter,
        tagged,
        now,
        process,
        telemetry,
        ..
    } = bench;
    let begun = Instant::now();
    let mut told = Vec::new();
    {
        let snapshots = slice::from_ref(snapshot);
        let mut report = std::pin::pin!(reporter.report(snapshots, telemetry, process, *now));
        let mut step = tokio::time::interval(Duration::from_millis(1));
        loop {
            tokio::select! {
                biased;
                () = &mut report => break,
                _ = step.tick() => {
                    let lines = lines(tagged);
                    if !lines.is_empty() {
                        told.push((begun.elapsed(), lines));
                    }
                }
            }
        }
    }
    told.push((begun.elapsed(), lines(tagged)));
    told
}

fn paced(settings: &config::Report, hurry: &CancellationToken) -> Bench {
    let mut bench = Bench::new(settings, &[]);
    let (tagged, outlet) = output(Format::Dogstatsd, 8192);
    bench.tagged = outlet;
    bench.reporter =
        Reporter::new(settings, &[], tagged, Fanout::default()).paced(HALF, hurry.clone());
    bench
}

fn connections_only() -> config::Report {
    config::Report {
        connections: true,
        ..nothing()
    }
}

fn bytes_of(lines: &[String]) -> usize {
    lines.iter().map(|line| line.len() + 1).sum()
}

#[tokio::test(start_paused = true)]
async fn a_long_report_takes_half_its_tick_in_even_portions_and_keeps_its_order() {
    let settings = connections_only();
    let snapshot = hosts(25_000);
    let mut at_once = Bench::new(&settings, &[]);
    let (expected, _) = at_once.tick(Some(&snapshot)).await;

    let mut bench = paced(&settings, &CancellationToken::new());
    for _ in 0..3 {
        let told = told(&mut bench, &snapshot).await;
        let (took, _) = told.last().unwrap();
        assert!(*took <= HALF, "{took:?}");
        assert!(*took > HALF * 9 / 10, "{took:?}");
        let (first, later) = told.split_at(2);
        let first: usize = first.iter().map(|(_, lines)| bytes_of(lines)).sum();
        assert!(first <= AT_ONCE_BYTES, "{first}");
        for (at, lines) in later {
            let bytes = bytes_of(lines);
            assert!(bytes <= PORTION_BYTES, "{at:?}: {bytes}");
        }
        let lines: Vec<String> = told.into_iter().flat_map(|(_, lines)| lines).collect();
        assert_eq!(lines.len(), 100_002);
        assert_eq!(lines, expected);
        advance(HALF).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_report_goes_at_once() {
    let mut bench = paced(&connections_only(), &CancellationToken::new());
    let told = told(&mut bench, &hosts(150)).await;
    assert_eq!(told.last().unwrap().0, Duration::ZERO);
    let lines: usize = told.iter().map(|(_, lines)| lines.len()).sum();
    assert_eq!(lines, 602);
}

#[tokio::test(start_paused = true)]
async fn a_report_of_middling_length_is_not_drawn_out() {
    let mut bench = paced(&connections_only(), &CancellationToken::new());
    let told = told(&mut bench, &hosts(500)).await;
    let took = told.last().unwrap().0;
    assert!(took > Duration::ZERO && took <= HALF / 5, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_report_in_a_hurry_goes_with_short_pauses() {
    let hurry = CancellationToken::new();
    let mut bench = paced(&connections_only(), &hurry);
    let snapshot = hosts(25_000);
    let soon = Duration::from_secs(1);
    let begun = Instant::now();
    let (told, ()) = tokio::join!(told(&mut bench, &snapshot), async {
        tokio::time::sleep(soon).await;
        hurry.cancel();
    });
    let took = begun.elapsed();
    assert!(took > soon && took < soon + HALF / 4, "{took:?}");
    let lines: usize = told.iter().map(|(_, lines)| lines.len()).sum();
    assert_eq!(lines, 100_002);
}

#[tokio::test(start_paused = true)]
async fn a_report_longer_than_its_time_has_pauses_for_no_longer() {
    let settings = connections_only();
    let mut bench = paced(&settings, &CancellationToken::new());
    let tick = Duration::from_millis(50);
    let (tagged, outlet) = output(Format::Dogstatsd, 8192);
    bench.tagged = outlet;
    bench.reporter = Reporter::new(&settings, &[], tagged, Fanout::default())
        .paced(tick, CancellationToken::new());
    let told = told(&mut bench, &hosts(25_000)).await;
    let took = told.last().unwrap().0;
    // The timer's own tick on top.
    assert!(took <= tick + Duration::from_millis(1), "{took:?}");
}
