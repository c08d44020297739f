use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio::time::{sleep, timeout};

use super::transport::SendError;
use super::*;
use crate::config::{Burst, ByteRate, ByteSize, LineSource};
use crate::telemetry::OutputError;

const TICK: Duration = Duration::from_secs(10);

fn settings(address: &str) -> config::Output {
    config::Output {
        address: address.parse().unwrap(),
        ..config::Output::default()
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_become_rare_and_what_waits_is_held() {
    let counters = Arc::new(OutputCounters::default());
    let (inlet, output) = Output::new(
        &settings("unixstream:///no/such/socket"),
        "",
        TICK,
        Arc::clone(&counters),
    );
    inlet.offer(b"a:1|c\n");
    let run = output.run(CancellationToken::new());
    assert!(timeout(Duration::from_secs(600), run).await.is_err());
    let attempts = counters.errors.get(OutputError::Connect);
    // One to two a second, once the pauses are at their longest.
    assert!((600..=1300).contains(&attempts), "{attempts}");
    // The output was dropped with its line still held.
    assert_eq!(counters.dropped.get(LineDrop::Shutdown), 0);
    assert_eq!(counters.held(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_closes_each_connection_is_asked_ever_more_rarely() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.socket");
    let listener = UnixListener::bind(&path).unwrap();
    let address = format!("unixstream://{}", path.display());
    let (inlet, output) = Output::new(&settings(&address), "", TICK, Arc::default());
    let abandon = CancellationToken::new();
    let run = tokio::spawn(output.run(abandon.clone()));
    drop(listener.accept().await.unwrap());
    let first = Instant::now();
    for _ in 0..3 {
        drop(listener.accept().await.unwrap());
    }
    // Pauses of 50, 100 and 200 ms, of which jitter takes half at most.
    assert!(first.elapsed() >= Duration::from_millis(175));
    abandon.cancel();
    assert_eq!(run.await.unwrap(), Ending::Abandoned { lines: 0 });
    drop(inlet);
}

#[test]
fn an_error_is_told_with_its_causes() {
    let error = SendError::Lost(std::io::Error::other("the cable is out"));
    assert_eq!(chain(&error), "the connection is lost: the cable is out");
}

#[test]
fn senders_are_asked_to_wait_unless_the_output_drops() {
    for (on_full, blocks) in [
        (OnFull::Block, true),
        // Until it has taken something.
        (OnFull::Merge, false),
        (OnFull::Drop, false),
    ] {
        let config = config::Output {
            on_full,
            ..settings("udp://127.0.0.1:1")
        };
        let (inlet, _output) = Output::new(&config, "", TICK, Arc::default());
        assert_eq!(inlet.for_source(LineSource::Listeners).blocks(), blocks);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_gets_no_more_than_rate_and_burst_and_all_of_it_in_the_end() {
    const RATE: u64 = 64 << 10;
    const BURST: u64 = 16 << 10;
    const LINE: &[u8] = b"a.line.of.forty.bytes.with.its.newline:1\n";
    const LINES: u64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.socket");
    let listener = UnixListener::bind(&path).unwrap();
    let config = config::Output {
        rate: ByteRate(Some(ByteSize(RATE))),
        burst: Burst(Some(ByteSize(BURST))),
        ..settings(&format!("unixstream://{}", path.display()))
    };
    let counters = Arc::default();
    let (inlet, output) = Output::new(&config, "", TICK, Arc::clone(&counters));
    for _ in 0..LINES {
        inlet.offer(LINE);
    }
    drop(inlet);
    let begun = Instant::now();
    let run = tokio::spawn(output.run(CancellationToken::new()));
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let length = stream.read(&mut buffer).await.unwrap();
        bytes += length as u64;
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap();
        assert!(bytes <= RATE * (millis + 1) / 1000 + BURST, "{bytes}");
        if length == 0 {
            break;
        }
    }
    assert_eq!(run.await.unwrap(), Ending::Drained);
    assert_eq!(counters.sent.get(), LINES);
    assert_eq!(counters.bytes.get(), bytes);
    assert!(counters.throttled.get() > 0);
    assert!(counters.throttled_us.get() > 1_000_000);
}

/// An output held to 2 KiB/s with much to send, after ten seconds of it.
async fn held_to_its_rate(on_full: OnFull) -> Inlet {
    let receiver = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let config = config::Output {
        rate: ByteRate(Some(ByteSize::kib(2))),
        queue: ByteSize::mib(1),
        on_full,
        ..settings(&format!("udp://{}", receiver.local_addr().unwrap()))
    };
    let (inlet, output) = Output::new(&config, "", TICK, Arc::default());
    let inlet = inlet.for_source(LineSource::Listeners);
    let health = Arc::<Health>::default();
    let telling = output.telling(Arc::clone(&health));
    tokio::spawn(async move {
        let _receiver = receiver;
        telling.run(CancellationToken::new()).await
    });
    inlet.offer(b"a:1|c\n");
    sleep(Duration::from_secs(10)).await;
    assert!(
        inlet.try_reserve(768 << 10).is_none(),
        "it takes what comes"
    );
    for _ in 0..100 {
        inlet.offer(&[&[b'x'; 1_000][..], b":1|c\n"].concat());
    }
    sleep(Duration::from_secs(10)).await;
    assert!(
        health.well_for(Duration::ZERO),
        "it waits for its rate alone"
    );
    inlet
}

#[tokio::test(start_paused = true)]
async fn an_output_held_to_its_rate_lets_senders_that_wait_fill_its_queue() {
    let inlet = held_to_its_rate(OnFull::Block).await;
    assert!(inlet.try_reserve(768 << 10).is_some());
    assert!(inlet.blocks());
}

#[tokio::test(start_paused = true)]
async fn an_output_held_to_its_rate_merges_soon_and_lets_nobody_wait() {
    let inlet = held_to_its_rate(OnFull::Merge).await;
    assert!(inlet.try_reserve(LEAST_STEADY_BYTES).is_none());
    assert!(!inlet.blocks());
}
