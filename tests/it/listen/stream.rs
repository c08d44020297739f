//! Framing, checks and limits of connections.

use std::time::Duration;

use conntally::config::{ByteSize, Framing, Interval};
use conntally::message::Malformed;
use conntally::telemetry::{Closing, FrameDrop, Refusal};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::{PATIENCE, QUEUE_BYTES, Rig, frame};

async fn connect(rig: &Rig) -> UnixStream {
    UnixStream::connect(rig.path()).await.unwrap()
}

/// Waits for the listener to close the connection.
async fn closed(client: &mut UnixStream) {
    let end = timeout(PATIENCE, client.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn a_frame_written_byte_by_byte_arrives_whole() {
    let mut rig = Rig::stream(|_| {}).await;
    let mut client = connect(&rig).await;
    for byte in frame("page.views:1|c|#env:prod\nusers:7|g\n") {
        client.write_all(&[byte]).await.unwrap();
        yield_now().await;
        yield_now().await;
    }
    assert_eq!(rig.lines(2).await, "page.views:1|c|#env:prod\nusers:7|g\n");
    assert_eq!(rig.counters.frames.get(), 1);
    assert_eq!(rig.counters.bytes.get(), 39);
}

#[tokio::test]
async fn a_frame_longer_than_a_read_arrives_whole() {
    let mut rig = Rig::stream(|listener| listener.max_frame = ByteSize::mib(1)).await;
    let mut client = connect(&rig).await;
    let body = "app.requests:1|c\n".repeat(12_000);
    client.write_all(&frame(&body)).await.unwrap();
    assert_eq!(rig.lines(12_000).await, body);
    assert_eq!(rig.counters.frames.get(), 1);
}

#[tokio::test]
async fn an_oversized_frame_between_good_ones_costs_only_itself() {
    let mut rig = Rig::stream(|listener| listener.max_frame = ByteSize::kib(1)).await;
    let mut client = connect(&rig).await;
    let long = "x".repeat(300_000);
    let stream = [frame("a:1|c"), frame(&long), frame("b:2|c")].concat();
    client.write_all(&stream).await.unwrap();
    assert_eq!(rig.lines(2).await, "a:1|c\nb:2|c\n");
    assert_eq!(rig.counters.frames_dropped.get(FrameDrop::Oversized), 1);
    assert_eq!(rig.counters.frames.get(), 2);
}

#[tokio::test]
async fn a_frame_beyond_what_is_skipped_closes_the_connection() {
    let rig = Rig::stream(|_| {}).await;
    let mut client = connect(&rig).await;
    let two_mib = (2_u32 << 20).to_le_bytes();
    client.write_all(&two_mib).await.unwrap();
    closed(&mut client).await;
    rig.until("closed", |counters| {
        counters.closed.get(Closing::Protocol) == 1
    })
    .await;
    assert_eq!(rig.counters.frames_dropped.get(FrameDrop::Oversized), 1);
}

#[tokio::test]
async fn bad_lines_are_dropped_by_reason_and_hurt_no_neighbour() {
    let mut rig = Rig::stream(|_| {}).await;
    let mut client = connect(&rig).await;
    let body = "a:1|c\nrubbish\nb:x|g\nc:1|c|#tag|new:field\r\n\n_sc|up|7\nd:1|c";
    client.write_all(&frame(body)).await.unwrap();
    assert_eq!(rig.lines(3).await, "a:1|c\nc:1|c|#tag|new:field\nd:1|c\n");
    let dropped = &rig.counters.dropped;
    assert_eq!(dropped.total(), 3);
    for reason in [Malformed::NoValue, Malformed::Value, Malformed::CheckStatus] {
        assert_eq!(dropped.get(reason), 1, "{reason:?}");
    }
    let clients = rig.tracker.clients();
    assert_eq!((clients[0].lines, clients[0].bad_lines), (3, 3));
}

#[tokio::test]
async fn a_client_without_length_prefix_is_recognised() {
    let mut rig = Rig::stream(|_| {}).await;
    let mut client = connect(&rig).await;
    client.write_all(b"a").await.unwrap();
    yield_now().await;
    client.write_all(b":1|c\nb:2|g\nc:3").await.unwrap();
    assert_eq!(rig.lines(2).await, "a:1|c\nb:2|g\n");
    client.write_all(b"|c").await.unwrap();
    drop(client);
    assert_eq!(rig.lines(1).await, "c:3|c\n");
    rig.until("closed", |counters| counters.closed.get(Closing::Eof) == 1)
        .await;
    assert_eq!(rig.counters.frames.get(), 3);
    assert_eq!(rig.counters.connections.get(), 0);
}

#[tokio::test]
async fn an_empty_frame_keeps_the_connection() {
    let mut rig = Rig::stream(|_| {}).await;
    let mut client = connect(&rig).await;
    let stream = [frame(""), frame("a:1|c\n"), frame(""), frame("b:1|c\n")].concat();
    client.write_all(&stream).await.unwrap();
    assert_eq!(rig.lines(2).await, "a:1|c\nb:1|c\n");
    assert_eq!(rig.counters.frames.get(), 2);
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_prefix_or_frame_is_counted() {
    let rig = Rig::stream(|_| {}).await;
    for cut in [3, 6] {
        let mut client = connect(&rig).await;
        client.write_all(&frame("a:1|c\n")[..cut]).await.unwrap();
    }
    rig.until("closed", |counters| counters.closed.get(Closing::Eof) == 2)
        .await;
    assert_eq!(rig.counters.frames_dropped.get(FrameDrop::Truncated), 2);
}

#[tokio::test]
async fn text_is_refused_where_a_length_is_asked_for() {
    let rig = Rig::stream(|listener| listener.framing = Framing::Length).await;
    let mut client = connect(&rig).await;
    client.write_all(b"a:1|c\n").await.unwrap();
    closed(&mut client).await;
    assert_eq!(rig.counters.frames_dropped.get(FrameDrop::Unframed), 1);
    assert_eq!(rig.counters.closed.get(Closing::Protocol), 1);
}

#[tokio::test]
async fn the_listeners_tags_are_added() {
    let mut rig = Rig::stream(|listener| listener.tags = vec!["via:relay".to_owned()]).await;
    let mut client = connect(&rig).await;
    client
        .write_all(&frame("a:1|c|#x:y\nb:1|c\n"))
        .await
        .unwrap();
    assert_eq!(
        rig.lines(2).await,
        "a:1|c|#x:y,via:relay\nb:1|c|#via:relay\n"
    );
}

#[tokio::test]
async fn tcp_clients_send_lines() {
    let mut rig = Rig::start("unix", |listener| {
        listener.address = "tcp://127.0.0.1:0".parse().unwrap();
    })
    .await;
    let address = rig.address.to_string();
    assert!(!address.ends_with(":0"), "{address}");
    let address = address.strip_prefix("tcp://").unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"a:1|c\nb:1|c\n").await.unwrap();
    assert_eq!(rig.lines(2).await, "a:1|c\nb:1|c\n");
    assert!(rig.tracker.clients()[0].peer.remote.is_some());
}

#[tokio::test]
async fn a_connection_too_many_is_closed_at_once() {
    let mut rig = Rig::stream(|listener| listener.max_connections = 2).await;
    let first = connect(&rig).await;
    let mut second = connect(&rig).await;
    let mut third = connect(&rig).await;
    closed(&mut third).await;
    assert_eq!(rig.counters.refused.get(Refusal::Limit), 1);
    assert_eq!(rig.counters.connections.get(), 2);

    drop(first);
    rig.until("closed", |counters| counters.connections.get() == 1)
        .await;
    let mut fourth = connect(&rig).await;
    fourth.write_all(&frame("d:1|c")).await.unwrap();
    second.write_all(&frame("b:1|c")).await.unwrap();
    rig.lines(2).await;
    assert_eq!(rig.counters.accepted.get(), 3);
}

#[tokio::test]
async fn only_users_who_may_are_accepted() {
    let own = rustix::process::getuid().as_raw();
    let mut rig = Rig::stream(|listener| listener.allow_uids = vec![own]).await;
    let mut client = connect(&rig).await;
    client.write_all(&frame("a:1|c")).await.unwrap();
    rig.lines(1).await;

    let rig = Rig::stream(|listener| listener.allow_uids = vec![own + 1]).await;
    closed(&mut connect(&rig).await).await;
    assert_eq!(rig.counters.refused.get(Refusal::Uid), 1);
}

#[tokio::test]
async fn the_tracker_knows_who_has_sent_what() {
    let mut rig = Rig::stream(|_| {}).await;
    let mut client = connect(&rig).await;
    client
        .write_all(&frame("a:1|c\nb:1|c\nbad\n"))
        .await
        .unwrap();
    rig.lines(2).await;
    let clients = rig.tracker.clients();
    assert_eq!(clients.len(), 1);
    let seen = &clients[0];
    assert_eq!(seen.peer.pid, Some(std::process::id()));
    assert_eq!(seen.peer.uid, Some(rustix::process::getuid().as_raw()));
    assert!(!seen.peer.program.is_empty());
    assert_eq!((seen.id, seen.frames, seen.lines), (1, 1, 2));
    assert_eq!((seen.bytes, seen.bad_lines), (20, 1));
    drop(client);
    rig.until("closed", |counters| counters.connections.get() == 0)
        .await;
    assert!(rig.tracker.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_frame_begun_must_end_within_the_read_timeout() {
    let rig = Rig::stream(|listener| listener.read_timeout = Interval::from_secs(10)).await;
    let mut quiet = connect(&rig).await;
    let mut stuck = connect(&rig).await;
    let started = tokio::time::Instant::now();
    stuck.write_all(&frame("a:1|c")[..7]).await.unwrap();
    closed(&mut stuck).await;
    let taken = started.elapsed();
    assert!(
        (Duration::from_secs(10)..=Duration::from_secs(12)).contains(&taken),
        "{taken:?}"
    );
    assert_eq!(rig.counters.closed.get(Closing::ReadTimeout), 1);
    assert_eq!(rig.counters.frames_dropped.get(FrameDrop::Truncated), 1);

    // Quiet is not stuck.
    assert_eq!(rig.counters.connections.get(), 1);
    quiet.write_all(&frame("b:1|c")).await.unwrap();
    rig.until("read", |counters| counters.lines.get() == 1)
        .await;
}

#[tokio::test(start_paused = true)]
async fn one_frame_begun_after_the_other_is_no_frame_that_does_not_end() {
    let oversized = frame(&"x".repeat(20_000));
    let empty = frame("");
    let line = "y".repeat(20_000) + "\n";
    for (framing, unit) in [
        (Framing::Length, &oversized[..]),
        (Framing::Length, &empty),
        (Framing::Newline, line.as_bytes()),
    ] {
        let rig = Rig::stream(|listener| {
            listener.framing = framing;
            listener.read_timeout = Interval::from_secs(10);
        })
        .await;
        let mut client = connect(&rig).await;
        let (begin, rest) = unit.split_at(2);
        client.write_all(begin).await.unwrap();
        // Whenever it is looked at, it is inside a frame.
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            client.write_all(&[rest, begin].concat()).await.unwrap();
        }
        rig.until("all is read", |counters| {
            counters.bytes.get() == 30 * unit.len() as u64 + 2
        })
        .await;
        assert_eq!(rig.counters.connections.get(), 1, "{framing:?}");

        // The last of them does not end.
        closed(&mut client).await;
        assert_eq!(rig.counters.closed.get(Closing::ReadTimeout), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_connection_is_closed_after_the_idle_timeout() {
    let mut rig = Rig::stream(|listener| listener.idle_timeout = Interval::from_secs(30)).await;
    let mut quiet = connect(&rig).await;
    let mut busy = connect(&rig).await;
    for _ in 0..10 {
        busy.write_all(&frame("a:1|c")).await.unwrap();
        rig.lines(1).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    closed(&mut quiet).await;
    assert_eq!(rig.counters.closed.get(Closing::Idle), 1);
    assert_eq!(rig.counters.connections.get(), 1);
}

#[tokio::test]
async fn a_full_output_holds_senders_up_and_loses_nothing() {
    let mut rig = Rig::stream(|_| {}).await;
    let body = "app.requests:1|c|#env:prod\n".repeat(300);
    let per_frame = 300;
    let frames = 400;
    let mut client = connect(&rig).await;
    let sender = tokio::spawn(async move {
        let frame = frame(&body);
        for _ in 0..frames {
            client.write_all(&frame).await.unwrap();
        }
    });
    rig.until("the listener waits", |_| {
        rig.output.accepted.get() > 0 && rig.output.held() * 27 > (QUEUE_BYTES as u64) / 2
    })
    .await;
    for _ in 0..1000 {
        yield_now().await;
    }
    assert!(!sender.is_finished());
    // No more than its share is taken off the socket, and what is in hand.
    assert!(rig.counters.bytes.get() < 2 * QUEUE_BYTES as u64);

    let all = rig.lines(per_frame * frames).await;
    assert_eq!(all.lines().count(), per_frame * frames);
    sender.await.unwrap();
    assert!(rig.counters.waits.get() > 0);
}

#[tokio::test]
async fn a_stuck_client_and_one_that_sends_rubbish_hold_nobody_up() {
    let mut rig = Rig::stream(|_| {}).await;
    let mut stuck = connect(&rig).await;
    stuck.write_all(&frame("a:1|c")[..5]).await.unwrap();
    let mut rubbish = connect(&rig).await;
    rubbish.write_all(&vec![0xff; 60_000]).await.unwrap();
    let mut good = connect(&rig).await;
    good.write_all(&frame("good:1|c")).await.unwrap();
    assert_eq!(rig.lines(1).await, "good:1|c\n");
}

fn lines() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-z.]{1,30}:[0-9]{1,4}\\|(c|g|ms|d)(\\|#[a-z]{1,8}:[a-z]{1,60})?",
        1 => "[a-z]{1,5}",
        1 => Just(String::new()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Lines in = lines out + dropped, in order, however they are framed and split.
    #[test]
    fn prop_lines_in_are_lines_out_and_dropped(
        bodies in prop::collection::vec(prop::collection::vec(lines(), 1..40), 1..20),
        is_framed: bool,
        ends_with_newline: bool,
        sizes in prop::collection::vec(1_usize..5000, 1..8),
    ) {
        let end = if ends_with_newline || !is_framed { "\n" } else { "" };
        let stream: Vec<u8> = bodies
            .iter()
            .map(|body| body.join("\n") + end)
            .flat_map(|body| if is_framed { frame(&body) } else { body.into_bytes() })
            .collect();
        let sent: Vec<&String> = bodies.iter().flatten().filter(|line| !line.is_empty()).collect();
        let good: Vec<&str> = sent.iter().filter(|line| line.contains('|')).map(|line| line.as_str()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (received, handed_on, dropped) = runtime.block_on(async {
            let framing = if is_framed { Framing::Length } else { Framing::Newline };
            let rig = Rig::stream(|listener| listener.framing = framing).await;
            let counters = rig.counters.clone();
            let mut client = connect(&rig).await;
            let mut rest = &stream[..];
            for &size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, next) = rest.split_at(size.min(rest.len()));
                client.write_all(piece).await.unwrap();
                yield_now().await;
                rest = next;
            }
            drop(client);
            (rig.rest().await, counters.lines.get(), counters.dropped.total())
        });
        prop_assert!(received.lines().eq(good.iter().copied()));
        prop_assert_eq!(handed_on, good.len() as u64);
        prop_assert_eq!(handed_on + dropped, sent.len() as u64);
    }
}
