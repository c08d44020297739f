//! What is merged, and when it goes on.

use super::*;

/// A queue that merges, and its lines so far.
pub(super) fn merging(settings: Settings) -> Ends {
    ends_of(Settings {
        flush_interval: FLUSH,
        ..settings
    })
}

pub(super) fn usual() -> Settings {
    Settings::of(Shape {
        limit: 1432,
        delimiter: Delimiter::Newline,
    })
}

/// What is ready to be sent now.
pub(super) async fn ready(ends: &mut Ends) -> String {
    let mut sent = Vec::new();
    while let Ok(Some(chunk)) = timeout(FLUSH, ends.outlet.recv()).await {
        take(ends, chunk, &mut sent);
    }
    String::from_utf8(sent).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_merged_for_a_while_goes_when_that_is_over_with_every_value() {
    let every = Duration::from_secs(10);
    let mut ends = merging(Settings {
        aggregate: Some(every),
        backlog: Limits {
            values_bytes: 1 << 20,
            ..usual().backlog
        },
        ..usual()
    });
    let mut values = 0;
    for round in 1..=3 {
        for number in 0..5_000 {
            let lines = format!("a:1|c\nb:{number}|d\nc:{number}|g\n");
            ends.inlet.offer_lines(lines.as_bytes(), 3, OWN);
            values += 1;
        }
        let waiting = ready(&mut ends).await;
        assert_eq!(waiting, "", "it is not over");
        advance(every).await;
        let told = ready(&mut ends).await;
        assert!(told.starts_with("a:5000|c\n"), "{told}");
        assert!(told.contains("c:4999|g\n"));
        let distributions = told.lines().filter(|line| line.starts_with("b:"));
        let told_values = distributions.clone().map(|line| line.matches(':').count());
        assert_eq!(told_values.sum::<usize>(), 5_000, "round {round}");
        assert!(distributions.clone().count() > 10);
        assert!(!distributions.clone().any(|line| line.contains('@')));
    }
    assert_eq!(ends.counters.held(), 0);
    assert_eq!(values, 15_000);
    // The last goes with the last sender.
    ends.inlet.offer_lines(b"a:1|c\na:1|c\n", 2, OWN);
    ends.inlet = Ends::unused();
    assert_eq!(ready(&mut ends).await, "a:2|c\n");
    assert!(ends.outlet.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_is_merged_for_a_while_goes_early_where_it_would_not_fit() {
    let mut ends = merging(Settings {
        aggregate: Some(Duration::from_secs(3600)),
        backlog: Limits {
            contexts: 100,
            ..usual().backlog
        },
        ..usual()
    });
    let mut told = String::new();
    for number in 0..1_000 {
        let line = format!("a{number}:1|c\n");
        ends.inlet.offer_lines(line.as_bytes(), 1, OWN);
        if number % 10 == 0 {
            told += &ready(&mut ends).await;
        }
    }
    assert!(told.lines().count() > 900);
    assert_eq!(ends.counters.dropped.total(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_udp_receiver_gets_what_was_merged_in_parts_with_rests() {
    let pause = Duration::from_millis(4);
    let mut ends = merging(Settings {
        capacity: 64,
        pause: Some(pause),
        ..usual()
    });
    for number in 0..20_000 {
        let line = format!("some.counter.{number}:1|c|#some:tag\n");
        ends.inlet.offer_lines(line.as_bytes(), 1, OWN);
    }
    let (begun, mut bytes, mut sent) = (Instant::now(), 0, Vec::new());
    ends.inlet = Ends::unused();
    while let Some(chunk) = ends.outlet.recv().await {
        bytes += chunk.bytes();
        take(&mut ends, chunk, &mut sent);
        let parts = u32::try_from(bytes / (34 << 10)).unwrap();
        assert!(begun.elapsed() >= pause * parts.saturating_sub(1));
    }
    assert_eq!(count_lines(&sent), 20_000);
    assert!(begun.elapsed() <= pause * 30, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn senders_have_room_again_once_what_was_merged_has_gone() {
    let mut ends = merging(Settings {
        capacity: 1 << 20,
        ..usual()
    });
    let line = |number| format!("some.counter.{number}:1|c|#some:tag\n");
    let room = ends.inlet.try_reserve(1 << 20).unwrap();
    for number in 0..10_000 {
        ends.inlet.offer_lines(line(number).as_bytes(), 1, OWN);
    }
    drop(room);
    ends.outlet.narrow();
    assert!(ends.inlet.blocks());
    let mut sent = Vec::new();
    let mut waited = false;
    while let Ok(Some(chunk)) = timeout(FLUSH, ends.outlet.recv()).await {
        take(&mut ends, chunk, &mut sent);
        let left = ends.counters.backlog_contexts.get();
        waited |= left > 0 && ends.inlet.try_reserve(1).is_none();
    }
    assert!(waited, "there was no end to it");
    assert_eq!(count_lines(&sent), 10_000);
    assert!(ends.inlet.try_reserve(STEADY_BYTES).is_some());
    // Stuck again, nobody waits.
    ends.outlet.widen();
    assert!(!ends.inlet.blocks());
    assert!(ends.inlet.try_reserve(1 << 20).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_outages_lines_have_no_timestamps_where_its_ticks_are_not_over() {
    let mut ends = merging(Settings {
        capacity: 64,
        backfill: true,
        backlog: Limits {
            tick_seconds: 1 << 30,
            ..usual().backlog
        },
        ..usual()
    });
    {
        let _room = ends.inlet.try_reserve(64).unwrap();
        ends.inlet.offer_lines(b"a:1|c\na:1|c\nb:2|g\n", 3, OWN);
    }
    assert_eq!(ready(&mut ends).await, "a:2|c\nb:2|g\n");
}
