use tokio::net::UnixListener;
use tokio::time::timeout;

use super::*;
use crate::config::LineSource;

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
    let (inlet, output) = Output::new(&settings(&address), "", Arc::default());
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
        (OnFull::Merge, true),
        (OnFull::Drop, false),
    ] {
        let config = config::Output {
            on_full,
            ..settings("udp://127.0.0.1:1")
        };
        let (inlet, _output) = Output::new(&config, "", Arc::default());
        assert_eq!(inlet.for_source(LineSource::Listeners).blocks(), blocks);
    }
}
