//! Datagram listeners.

use std::sync::Arc;

use conntally::config::{self, ByteSize, ReceiveBuffer};
use conntally::handover;
use conntally::listen::Listener;
use conntally::telemetry::FrameDrop;
use tokio::net::{UdpSocket, UnixDatagram};

use super::{Rig, configured};

#[tokio::test]
async fn every_unix_datagram_is_a_frame() {
    let mut rig = Rig::start("unixgram", |_| {}).await;
    let client = UnixDatagram::unbound().unwrap();
    for datagram in ["a:1|c\nb:2|g\n", "rubbish", "", "c:3|c"] {
        client
            .send_to(datagram.as_bytes(), rig.path())
            .await
            .unwrap();
    }
    assert_eq!(rig.lines(3).await, "a:1|c\nb:2|g\nc:3|c\n");
    assert_eq!(rig.counters.frames.get(), 4);
    assert_eq!(rig.counters.dropped.total(), 1);
}

#[tokio::test]
async fn a_datagram_that_is_too_long_costs_only_itself() {
    let mut rig = Rig::start("unixgram", |listener| listener.max_frame = ByteSize(16)).await;
    let client = UnixDatagram::unbound().unwrap();
    for datagram in ["a:1|c", "just.long.enough:1|c", "b234567890:12|ms"] {
        client
            .send_to(datagram.as_bytes(), rig.path())
            .await
            .unwrap();
    }
    assert_eq!(rig.lines(2).await, "a:1|c\nb234567890:12|ms\n");
    assert_eq!(rig.counters.frames_dropped.get(FrameDrop::Oversized), 1);
}

#[tokio::test]
async fn udp_is_received_on_the_port_that_the_system_chose() {
    for host in ["127.0.0.1", "[::1]", "localhost"] {
        let mut rig = Rig::start("unixgram", |listener| {
            listener.address = format!("udp://{host}:0").parse().unwrap();
        })
        .await;
        let address = rig.address.to_string();
        let address = address.strip_prefix("udp://").unwrap();
        assert!(!address.ends_with(":0"), "{address}");
        let local = if address.starts_with('[') {
            "[::1]:0"
        } else {
            "127.0.0.1:0"
        };
        let client = UdpSocket::bind(local).await.unwrap();
        client.send_to(b"a:1|c\nb:2|c", address).await.unwrap();
        assert_eq!(rig.lines(2).await, "a:1|c\nb:2|c\n");
    }
}

#[tokio::test]
async fn what_is_queued_at_stop_is_handed_on() {
    let rig = Rig::start("unixgram", |_| {}).await;
    let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
    client.connect(rig.path()).unwrap();
    // The listener does not get to run in between.
    for number in 0..8 {
        let line = format!("a:{number}|c\n");
        client.send(line.as_bytes()).unwrap();
    }
    let path = rig.path().to_owned();
    let received = rig.rest().await;
    assert_eq!(received.lines().count(), 8);
    assert!(!path.exists());
}

#[tokio::test(start_paused = true)]
async fn what_a_full_output_keeps_from_being_read_is_counted_at_stop() {
    let rig = Rig::start("unixgram", |_| {}).await;
    let counters = rig.counters.clone();
    let client = UnixDatagram::unbound().unwrap();
    client.connect(rig.path()).unwrap();
    let datagram = "app.requests:1|c\n".repeat(300);
    let mut sent = 0;
    loop {
        let sending = client.send(datagram.as_bytes());
        let patience = std::time::Duration::from_secs(1);
        match tokio::time::timeout(patience, sending).await {
            Ok(Ok(bytes)) => sent += bytes as u64,
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => break,
        }
    }
    rig.stop.cancel();
    rig.task.await.unwrap();
    assert!(counters.abandoned_bytes.get() > 0);
    assert_eq!(counters.bytes.get() + counters.abandoned_bytes.get(), sent);
}

#[tokio::test]
async fn who_may_not_send_is_refused_datagram_by_datagram() {
    let own = rustix::process::getuid().as_raw();
    let mut rig = Rig::start("unixgram", |listener| listener.allow_uids = vec![7, own]).await;
    let client = UnixDatagram::unbound().unwrap();
    client.send_to(b"a:1|c", rig.path()).await.unwrap();
    assert_eq!(rig.lines(1).await, "a:1|c\n");
    assert_eq!(rig.counters.frames_dropped.total(), 0);

    let rig = Rig::start("unixgram", |listener| listener.allow_uids = vec![own + 1]).await;
    for _ in 0..3 {
        client.send_to(b"a:1|c", rig.path()).await.unwrap();
    }
    rig.until("all three are refused", |counters| {
        counters.frames_dropped.get(FrameDrop::Uid) == 3
    })
    .await;
    let counters = rig.counters.clone();
    assert_eq!(rig.rest().await, "");
    assert_eq!((counters.frames.get(), counters.bytes.get()), (0, 15));
}

/// As systemd has it open before the daemon runs.
#[tokio::test]
async fn who_sent_before_a_socket_of_somebody_elses_was_taken_over_is_not_known() {
    let directory = tempfile::tempdir().unwrap();
    let config = config::Listener {
        allow_uids: vec![rustix::process::getuid().as_raw()],
        ..configured(directory.path(), "unixgram")
    };
    let path = config.address.path().unwrap();
    let socket = std::os::unix::net::UnixDatagram::bind(path).unwrap();
    let client = UnixDatagram::unbound().unwrap();
    client.send_to(b"before:1|c", path).await.unwrap();
    let left = handover::Listener {
        address: config.address.to_string(),
        socket: socket.into(),
        file: None,
        older: Vec::new(),
        connections: Vec::new(),
    };
    let listener = Listener::open(&config, Some(left)).await.unwrap();
    client.send_to(b"after:1|c", path).await.unwrap();
    let mut rig = Rig::of(listener, directory, Arc::default());
    assert_eq!(rig.lines(1).await, "after:1|c\n");
    assert_eq!(rig.counters.frames_dropped.get(FrameDrop::Uid), 1);
}

#[tokio::test]
async fn more_datagrams_than_are_read_in_one_go_come_in_order() {
    let (mut rig, client) = udp(1 << 20).await;
    let sent: Vec<String> = (0..300).map(|number| format!("a:{number}|g\n")).collect();
    // The listener does not get to run in between.
    for line in &sent {
        client.send(line.as_bytes()).unwrap();
    }
    assert_eq!(rig.lines(sent.len()).await, sent.concat());
    assert_eq!(rig.counters.frames.get(), sent.len() as u64);
}

/// A UDP listener with a receive buffer of so many bytes, and a client.
async fn udp(bytes: u64) -> (Rig, std::net::UdpSocket) {
    let rig = Rig::start("unixgram", |listener| {
        listener.address = "udp://127.0.0.1:0".parse().unwrap();
        listener.receive_buffer = ReceiveBuffer(Some(ByteSize(bytes)));
    })
    .await;
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = rig.address.to_string();
    client
        .connect(address.strip_prefix("udp://").unwrap())
        .unwrap();
    (rig, client)
}

#[tokio::test]
async fn a_receive_buffer_is_set_and_told() {
    let (mut rig, client) = udp(64 << 10).await;
    client.send(b"a:1|c").unwrap();
    rig.lines(1).await;
    assert_eq!(rig.counters.receive_buffer_bytes.get(), 64 << 10);
}

#[tokio::test]
async fn what_finds_no_room_in_the_socket_is_counted_to_the_datagram() {
    let (rig, client) = udp(4 << 10).await;
    let counters = rig.counters.clone();
    // The listener does not get to run in between.
    for _ in 0..1000 {
        client.send(b"app.requests:1|c").unwrap();
    }
    let received = rig.rest().await;
    let dropped = counters.kernel_drops.get();
    assert!(dropped > 0);
    assert_eq!(received.lines().count() as u64 + dropped, 1000);
}
