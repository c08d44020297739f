//! The rate that a connection is held to.

use std::time::Duration;

use conntally::config::{ByteSize, Interval};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::{Rig, frame};

const RATE: u64 = 64 << 10;

async fn limited(rate: u64) -> Rig {
    Rig::stream(|listener| listener.rate = format!("{rate}B/s").parse().unwrap()).await
}

/// Writes so many frames of 1 KiB, as fast as it may.
async fn flood(rig: &Rig, frames: usize) -> JoinHandle<()> {
    let mut client = UnixStream::connect(rig.path()).await.unwrap();
    let frame = frame(&format!("{}:1|c\n", "x".repeat(1015)));
    assert_eq!(frame.len(), 1 << 10);
    tokio::spawn(async move {
        for _ in 0..frames {
            client.write_all(&frame).await.unwrap();
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_read_no_faster_than_its_rate_and_loses_nothing() {
    let mut rig = limited(RATE).await;
    let began = Instant::now();
    let client = flood(&rig, 320).await;
    let mut received = 0;
    while received < 320 {
        received += rig.lines(1).await.lines().count();
        // The burst, the rate, and what was paid for before.
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap();
        let most = RATE + RATE * micros / 1_000_000 + RATE;
        let bytes = rig.counters.bytes.get();
        assert!(bytes <= most, "{bytes} bytes after {micros} us");
    }
    client.await.unwrap();
    // All but a second's bytes, and what is paid for ahead.
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(3), "{took:?}");
    let counters = &rig.counters;
    assert!(counters.throttled.get() > 0);
    let waited = Duration::from_micros(counters.throttled_us.get());
    assert!(
        waited >= Duration::from_secs(3) && waited <= took,
        "{waited:?}"
    );
    assert_eq!(counters.waits.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_keeps_to_the_rate_never_waits() {
    let mut rig = limited(RATE).await;
    let mut client = UnixStream::connect(rig.path()).await.unwrap();
    for _ in 0..64 {
        client.write_all(&frame("a:1|c\n")).await.unwrap();
        rig.lines(1).await;
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(rig.counters.throttled.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn each_connection_has_a_rate_of_its_own() {
    let mut rig = limited(1 << 10).await;
    let greedy = flood(&rig, 64).await;
    rig.until("the greedy one waits", |counters| {
        counters.bytes.get() >= 1 << 10
    })
    .await;
    let began = Instant::now();
    let mut quiet = UnixStream::connect(rig.path()).await.unwrap();
    quiet.write_all(&frame("quiet:1|c\n")).await.unwrap();
    while !rig.lines(1).await.contains("quiet:1|c") {}
    assert!(began.elapsed() < Duration::from_secs(1));
    greedy.abort();
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_the_rate_holds_up_is_not_overdue() {
    let mut rig = Rig::stream(|listener| {
        listener.rate = "1KiB/s".parse().unwrap();
        listener.max_frame = ByteSize::kib(64);
        listener.read_timeout = Interval::from_secs(2);
        listener.idle_timeout = Interval::from_secs(2);
    })
    .await;
    let mut client = UnixStream::connect(rig.path()).await.unwrap();
    let body = "app.requests:1|c\n".repeat(1000);
    client.write_all(&frame(&body)).await.unwrap();
    assert_eq!(rig.lines(1000).await, body);
    assert_eq!(rig.counters.closed.total(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_has_come_by_the_stop_is_read_at_once() {
    let rig = limited(1 << 10).await;
    let counters = rig.counters.clone();
    let client = flood(&rig, 100).await;
    client.await.unwrap();
    let began = Instant::now();
    assert_eq!(rig.rest().await.lines().count(), 100);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(counters.abandoned_bytes.get(), 0);
}
