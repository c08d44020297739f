//! Gauges of connections, and their zeroes.

use super::*;

#[tokio::test]
async fn a_series_is_a_gauge_with_its_tags() {
    let mut bench = Bench::new(
        &config::Report {
            telemetry: false,
            ..config::Report::default()
        },
        &["env:prod", "canary"],
    );
    let rows = vec![
        row("10.99.0.2", Open, 3),
        Row {
            port: Some(443),
            direction: Direction::Inbound,
            ..row("fd00::99", Closing, 1)
        },
    ];
    let (tagged, _) = bench.tick(Some(&snapshot(rows))).await;
    assert_eq!(
        tagged,
        [
            "conntrack.connections:3|g|#env:prod,canary,remote_host:10.99.0.2,state:open,\
             protocol:tcp,direction:outbound",
            "conntrack.connections:1|g|#env:prod,canary,remote_host:fd00::99,state:closing,\
             protocol:tcp,direction:inbound,port:443",
            "conntrack.hosts:7|g|#env:prod,canary",
            "conntrack.hosts.folded:2|g|#env:prod,canary",
        ]
    );
}

#[tokio::test]
async fn outputs_without_tags_get_sums_by_host_and_state() {
    let mut bench = Bench::new(
        &config::Report {
            telemetry: false,
            ..config::Report::default()
        },
        &["env:prod"],
    );
    let inbound = |row| Row {
        direction: Direction::Inbound,
        ..row
    };
    let rows = vec![
        row("a", Open, 3),
        inbound(row("a", Open, 4)),
        Row {
            port: Some(53),
            protocol: Protocol::Udp,
            ..row("a", Open, 5)
        },
        inbound(row("a", Closing, 1)),
        row("b", Open, 1),
    ];
    let (_, plain) = bench.tick(Some(&snapshot(rows))).await;
    assert_eq!(
        plain,
        [
            "conntrack.connections:1|g|#remote_host:a,state:closing",
            "conntrack.connections:12|g|#remote_host:a,state:open",
            "conntrack.connections:1|g|#remote_host:b,state:open",
            "conntrack.hosts:7|g",
            "conntrack.hosts.folded:2|g",
        ]
    );
}

#[tokio::test]
async fn a_series_that_vanished_is_zero_for_two_minutes_and_then_forgotten() {
    let mut bench = Bench::connections();
    let stays = "conntrack.connections:1|g|#remote_host:b,state:open,protocol:tcp,\
                 direction:outbound";
    let gone = "conntrack.connections:0|g|#remote_host:a,state:open,protocol:tcp,\
                direction:outbound";
    bench.rows(vec![row("a", Open, 3), row("b", Open, 1)]).await;
    for tick in 0..12 {
        let lines = bench.rows(vec![row("b", Open, 1)]).await;
        assert_eq!(lines, [gone, stays], "tick {tick}");
    }
    assert_eq!(bench.rows(vec![row("b", Open, 1)]).await, [stays]);
}

#[tokio::test]
async fn a_series_that_comes_back_starts_its_two_minutes_anew() {
    let mut bench = Bench::connections();
    bench.rows(vec![row("a", Open, 1)]).await;
    for _ in 0..11 {
        bench.rows(vec![]).await;
    }
    let back = bench.rows(vec![row("a", Open, 2)]).await;
    assert!(back[0].starts_with("conntrack.connections:2|g"));
    let mut zeros = 0;
    while !bench.rows(vec![]).await.is_empty() {
        zeros += 1;
    }
    assert_eq!(zeros, 12);
}

#[tokio::test]
async fn a_tick_longer_than_two_minutes_still_gets_its_zero() {
    let mut bench = Bench::connections();
    bench.rows(vec![row("a", Open, 1)]).await;
    bench.now += Duration::from_secs(600);
    let zero = bench.rows(vec![]).await;
    assert!(zero[0].starts_with("conntrack.connections:0|g"));
    bench.now += Duration::from_secs(600);
    assert!(bench.rows(vec![]).await.is_empty());
}

#[tokio::test]
async fn a_sum_without_tags_is_zero_only_when_all_of_it_vanished() {
    let mut bench = Bench::connections();
    let inbound = Row {
        direction: Direction::Inbound,
        ..row("a", Open, 2)
    };
    let both = snapshot(vec![row("a", Open, 1), inbound]);
    bench.tick(Some(&both)).await;
    let (_, plain) = bench.tick(Some(&snapshot(vec![row("a", Open, 1)]))).await;
    assert_eq!(
        plain[0],
        "conntrack.connections:1|g|#remote_host:a,state:open"
    );
    let (_, plain) = bench.tick(Some(&snapshot(vec![]))).await;
    assert_eq!(
        plain[0],
        "conntrack.connections:0|g|#remote_host:a,state:open"
    );
}

#[tokio::test]
async fn without_a_snapshot_connections_are_left_as_they_are() {
    let mut bench = Bench::connections();
    bench.rows(vec![row("a", Open, 1)]).await;
    assert!(bench.tick(None).await.0.is_empty());
    let lines = bench.rows(vec![row("a", Open, 1)]).await;
    assert!(lines[0].starts_with("conntrack.connections:1|g"));
}

#[tokio::test]
async fn lines_come_in_the_same_order_each_tick() {
    let mut bench = Bench::new(&config::Report::default(), &[]);
    let rows: Vec<_> = (0..50)
        .map(|number| row(&format!("10.0.0.{number}"), Opening, number + 1))
        .collect();
    let first = bench.tick(Some(&snapshot(rows.clone()))).await.0;
    let reversed = rows.into_iter().rev().collect();
    let second = bench.tick(Some(&snapshot(reversed))).await.0;
    let connections = |lines: &[String]| lines[..52].to_vec();
    assert_eq!(connections(&first), connections(&second));
}

#[tokio::test]
async fn a_series_that_another_process_sent_is_zero_for_what_is_left_of_its_two_minutes() {
    let stays = "conntrack.connections:1|g|#remote_host:b,state:open,protocol:tcp,\
                 direction:outbound";
    let gone = "conntrack.connections:0|g|#remote_host:a,state:open,protocol:tcp,\
                direction:outbound";
    for ticks in [0, 3] {
        let mut before = Bench::connections();
        before.tick(Some(&snapshot(vec![row("a", Open, 3)]))).await;
        for _ in 0..ticks {
            before.rows(vec![row("b", Open, 1)]).await;
        }
        let sent = before.reporter.sent(before.now);
        let mut after = Bench::connections();
        after.reporter = after.reporter.remembering(&sent, after.now);
        // It is told from its first missing on; what a tick lasts is between the two.
        let left = if ticks == 0 { 12 } else { 12 - ticks };
        for tick in 0..left {
            let (tagged, plain) = after.tick(Some(&snapshot(vec![row("b", Open, 1)]))).await;
            assert_eq!(tagged[..2], [gone, stays], "tick {tick}");
            assert_eq!(
                plain[0],
                "conntrack.connections:0|g|#remote_host:a,state:open"
            );
        }
        assert_eq!(after.rows(vec![row("b", Open, 1)]).await, [stays]);
    }
}
