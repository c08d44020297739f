use super::merging::{merging, ready, usual};
use super::*;

#[tokio::test(start_paused = true)]
async fn what_is_told_to_go_does_not_wait_for_company_and_what_comes_then_does() {
    for delimiter in [Delimiter::Datagram, Delimiter::Newline] {
        let mut ends = ends(64, delimiter, 1024);
        let flusher = ends.inlet.flusher();
        for _ in 0..2 {
            let begun = Instant::now();
            ends.inlet.offer(b"a:1|c\n");
            assert!(pends(ends.outlet.recv()).await);
            flusher.flush();
            let chunk = ends.outlet.recv().await.unwrap();
            assert_eq!((chunk.lines(), begun.elapsed()), (1, Duration::ZERO));
            take(&mut ends, chunk, &mut Vec::new());
            assert!(pends(ends.outlet.recv()).await);
        }
        // With nothing there it asks for nothing.
        flusher.flush();
        assert!(pends(ends.outlet.recv()).await);
        let begun = Instant::now();
        ends.inlet.offer(b"a:1|c\n");
        ends.outlet.recv().await.unwrap();
        assert!(begun.elapsed() >= FLUSH, "{delimiter:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_merged_for_a_while_goes_too() {
    let mut ends = merging(Settings {
        aggregate: Some(Duration::from_secs(3600)),
        ..usual()
    });
    for _ in 0..1_000 {
        ends.inlet.offer_lines(b"a:1|c\nb:7|g\n", 2, OWN);
    }
    assert_eq!(ready(&mut ends).await, "");
    ends.inlet.flusher().flush();
    assert_eq!(ready(&mut ends).await, "a:1000|c\nb:7|g\n");
    ends.inlet.offer_lines(b"a:1|c\n", 1, OWN);
    assert_eq!(ready(&mut ends).await, "");
}

#[tokio::test(start_paused = true)]
async fn it_keeps_no_output_from_its_end() {
    let mut ends = ends(64, Delimiter::Newline, 1024);
    let _flusher = ends.inlet.flusher();
    ends.inlet = Ends::unused();
    assert!(ends.outlet.recv().await.is_none());
}
