//! The order of stopping.

use std::io::Write;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use conntally::telemetry::{Closing, FrameDrop};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{PATIENCE, Rig, frame};

#[tokio::test]
async fn clients_are_told_and_what_they_still_send_is_handed_on() {
    let mut rig = Rig::stream(|_| {}).await;
    let mut client = UnixStream::connect(rig.path()).await.unwrap();
    client.write_all(&frame("a:1|c")).await.unwrap();
    rig.lines(1).await;

    rig.stop.cancel();
    // The end of the other direction, long before the connection ends.
    let told = timeout(PATIENCE, client.read(&mut [0; 1])).await.unwrap();
    assert_eq!(told.unwrap(), 0);
    assert!(!rig.path().exists());
    client.write_all(&frame("b:1|c")).await.unwrap();
    drop(client);

    let counters = rig.counters.clone();
    assert_eq!(rig.rest().await, "b:1|c\n");
    assert_eq!(counters.closed.get(Closing::Eof), 1);
    assert_eq!(counters.abandoned_bytes.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stays_is_ended_after_the_grace() {
    let rig = Rig::stream(|_| {}).await;
    let counters = rig.counters.clone();
    let mut client = UnixStream::connect(rig.path()).await.unwrap();
    client.write_all(&frame("a:1|c")).await.unwrap();
    client.write_all(&frame("b:1|c")[..6]).await.unwrap();
    assert_eq!(rig.rest().await, "a:1|c\n");
    assert_eq!(counters.closed.get(Closing::Shutdown), 1);
    assert_eq!(counters.frames_dropped.get(FrameDrop::Truncated), 1);
    assert!(client.write_all(b"more").await.is_err());
}

#[tokio::test]
async fn who_waits_to_be_accepted_is_heard() {
    let rig = Rig::stream(|_| {}).await;
    // The listener does not get to run in between.
    for number in 0..200 {
        let mut client = StdUnixStream::connect(rig.path()).unwrap();
        client
            .write_all(&frame(&format!("a:{number}|c\n")))
            .unwrap();
    }
    let counters = rig.counters.clone();
    assert_eq!(rig.rest().await.lines().count(), 200);
    assert_eq!(counters.accepted.get(), 200);
    assert_eq!(counters.closed.get(Closing::Eof), 200);
}

#[tokio::test(start_paused = true)]
async fn what_a_full_output_keeps_from_being_read_is_counted() {
    let rig = Rig::stream(|_| {}).await;
    let counters = rig.counters.clone();
    let mut client = UnixStream::connect(rig.path()).await.unwrap();
    let frame = frame(&"app.requests:1|c\n".repeat(400));
    let mut sent = 0_usize;
    // Until nothing moves any more: nobody takes lines off the output's queue.
    while let Ok(written) = timeout(
        Duration::from_secs(1),
        client.write(&frame[sent % frame.len()..]),
    )
    .await
    {
        sent += written.unwrap();
    }
    rig.stop.cancel();
    rig.task.await.unwrap();
    assert!(counters.abandoned_bytes.get() > 0);
    assert_eq!(
        counters.bytes.get() + counters.abandoned_bytes.get(),
        sent as u64
    );
    assert_eq!(counters.closed.get(Closing::Shutdown), 1);
    assert_eq!(counters.connections.get(), 0);
}
