//! What memory pressure does to senders.

use std::sync::Arc;
use std::time::Duration;

use conntally::config::{ByteSize, Memory, MemoryLimit};
use conntally::listen::{Pressure, Watch};
use conntally::message::Malformed;
use conntally::telemetry::Shed;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixDatagram, UnixStream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Rig, frame};

/// Memory that is spent, until the token says otherwise.
async fn spent() -> (Arc<Pressure>, CancellationToken) {
    under(1, 0.7).await
}

/// Memory of so many bytes, of which this process takes more than any.
async fn under(bytes: u64, low: f64) -> (Arc<Pressure>, CancellationToken) {
    let memory = Memory {
        limit: MemoryLimit::Bytes(ByteSize(bytes)),
        low,
        ..Memory::default()
    };
    let (pressure, relief) = (Arc::default(), CancellationToken::new());
    let watch = Watch::new(&memory, &pressure).unwrap();
    tokio::spawn(watch.run(|| 0, relief.clone()));
    // It has looked once.
    sleep(Duration::from_millis(1)).await;
    (pressure, relief)
}

#[tokio::test(start_paused = true)]
async fn where_memory_is_spent_lines_are_given_up_after_a_second_and_counted() {
    let (pressure, relief) = spent().await;
    let mut rig = Rig::under(pressure, "unixstream", |listener| {
        listener.deny = vec!["denied".to_owned()];
        listener.tags = vec!["via:relay".to_owned()];
    })
    .await;
    let mut client = UnixStream::connect(rig.path()).await.unwrap();
    let began = Instant::now();
    let body = "a:1|c\nb:1|c\nrubbish\ndenied:1|c\nc:1|c";
    client.write_all(&frame(body)).await.unwrap();
    rig.until("lines are given up", |counters| counters.shed.total() > 0)
        .await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    let counters = &rig.counters;
    assert_eq!(counters.shed.get(Shed::Pressure), 3);
    assert_eq!((counters.lines.get(), counters.filtered.get()), (0, 1));
    assert_eq!(counters.dropped.get(Malformed::NoValue), 1);
    assert_eq!(counters.frames.get(), 1);
    assert_eq!(counters.bytes.get(), frame(body).len() as u64);
    assert_eq!(counters.pressure_waits.get(), 1);
    assert!(counters.pressure_us.get() >= 1_000_000);
    let clients = rig.tracker.clients();
    assert_eq!((clients[0].lines, clients[0].bad_lines), (4, 1));

    // What comes with the relief is kept, and the connection is the same.
    client.write_all(&frame("d:1|c")).await.unwrap();
    relief.cancel();
    assert_eq!(rig.lines(1).await, "d:1|c|#via:relay\n");
    assert_eq!(rig.counters.accepted.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn datagrams_are_given_up_likewise() {
    let (pressure, relief) = spent().await;
    let mut rig = Rig::under(pressure, "unixgram", |_| {}).await;
    let client = UnixDatagram::unbound().unwrap();
    for datagram in ["a:1|c\nb:1|c\n", "c:1|c"] {
        client
            .send_to(datagram.as_bytes(), rig.path())
            .await
            .unwrap();
    }
    rig.until("lines are given up", |counters| counters.shed.total() == 3)
        .await;
    assert_eq!(rig.counters.lines.get(), 0);
    relief.cancel();
    client.send_to(b"d:1|c", rig.path()).await.unwrap();
    assert_eq!(rig.lines(1).await, "d:1|c\n");
}

#[tokio::test(start_paused = true)]
async fn where_memory_is_short_nothing_is_lost() {
    let (pressure, _relief) = under(1 << 50, 1e-12).await;
    let mut rig = Rig::under(pressure, "unixstream", |_| {}).await;
    let mut client = UnixStream::connect(rig.path()).await.unwrap();
    for _ in 0..10 {
        client.write_all(&frame("a:1|c\n")).await.unwrap();
        rig.lines(1).await;
    }
    assert_eq!(rig.counters.pressure_waits.get(), 10);
    assert!(rig.counters.pressure_us.get() >= 10_000);
    assert_eq!(rig.counters.shed.total(), 0);
}
