use std::time::Duration;

use proptest::prelude::*;
use tokio::time::{Instant, timeout};

use super::*;
use crate::config::{Burst, ByteRate, ByteSize};

fn held(rate: u64, burst: u64) -> Throttle {
    Throttle::new(&config::Output {
        rate: ByteRate(Some(ByteSize(rate))),
        burst: Burst(Some(ByteSize(burst))),
        ..config::Output::default()
    })
}

/// Seconds that so many bytes take.
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn seconds(bytes: u64, rate: u64) -> f64 {
    bytes as f64 / rate as f64
}

/// When each payload went, and its bytes.
async fn sent(throttle: &mut Throttle, sizes: &[usize]) -> Vec<(Instant, u64)> {
    let counters = OutputCounters::default();
    let mut sent = Vec::new();
    for &size in sizes {
        throttle.ready(size, &counters).await;
        throttle.went(size);
        sent.push((Instant::now(), size as u64));
    }
    sent
}

proptest! {
    /// In no stretch of time goes more than the rate and the burst; and the rate is used,
    /// where the burst lasts over the runtime's timer.
    #[test]
    fn prop_no_more_goes_than_rate_and_burst_and_hardly_less(
        rate in 1_u64 << 10..1 << 30,
        burst in prop_oneof![1_500_u64..100_000, 1_u64 << 20..1 << 30],
        sizes in proptest::collection::vec(1_usize..1_500, 1..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut throttle = held(rate, burst);
            let begun = Instant::now();
            let sent = sent(&mut throttle, &sizes).await;
            for (first, &(since, _)) in sent.iter().enumerate() {
                let mut bytes = 0;
                for &(at, size) in &sent[first..] {
                    bytes += size;
                    let most = seconds(bytes.saturating_sub(burst), rate);
                    prop_assert!((at - since).as_secs_f64() >= most - 1e-6);
                }
            }
            let all: u64 = sent.iter().map(|&(_, size)| size).sum();
            // Timers tick in milliseconds, and a byte's time is rounded up by 1/15 at most.
            let expected = seconds(all.saturating_sub(burst), rate) * (16.0 / 15.0) + 0.002;
            prop_assert!(burst < rate / 200 || begun.elapsed().as_secs_f64() <= expected);
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn an_hour_at_a_rate_brings_an_hours_bytes() {
    const RATE: u64 = 2 << 20;
    let mut throttle = held(RATE, 64 << 10);
    let begun = Instant::now();
    let payloads = usize::try_from(3600 * RATE / 8192).unwrap();
    sent(&mut throttle, &vec![8192; payloads]).await;
    let took = begun.elapsed().as_secs_f64();
    assert!((3599.9..3601.0).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn what_was_paid_for_and_did_not_go_pays_for_the_next() {
    let mut throttle = held(10_000, 1_500);
    let counters = OutputCounters::default();
    let begun = Instant::now();
    throttle.ready(1_500, &counters).await;
    // It did not go; the next is smaller, and what is left pays for a part of another.
    throttle.ready(500, &counters).await;
    throttle.went(500);
    throttle.ready(1_000, &counters).await;
    throttle.went(1_000);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(counters.throttled.get(), 0);
    throttle.ready(1_000, &counters).await;
    assert_eq!(begun.elapsed(), Duration::from_millis(100));
    assert_eq!(counters.throttled.get(), 1);
    assert_eq!(counters.throttled_us.get(), 100_000);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_given_up_costs_nothing() {
    let mut throttle = held(1_000, 1_500);
    let counters = OutputCounters::default();
    let begun = Instant::now();
    throttle.ready(1_500, &counters).await;
    throttle.went(1_500);
    // Two parts, of which the first is paid for in the end, and the second later.
    for _ in 0..100 {
        let wait = throttle.ready(3_000, &counters);
        assert!(timeout(Duration::from_millis(17), wait).await.is_err());
    }
    throttle.ready(3_000, &counters).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn without_a_rate_nothing_waits() {
    let mut throttle = Throttle::new(&config::Output::default());
    let begun = Instant::now();
    let sizes = [usize::MAX, 1 << 30, 1];
    assert!(!throttle.holds());
    assert_eq!(sent(&mut throttle, &sizes).await.len(), 3);
    assert_eq!(begun.elapsed(), Duration::ZERO);
}
