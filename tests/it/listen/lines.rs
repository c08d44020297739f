//! What a listener does with the lines that it takes: leaves out, renames, drops tags.

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixDatagram, UnixStream};

use super::{Rig, frame};

#[tokio::test]
async fn what_is_left_out_is_counted_and_no_drop() {
    let mut rig = Rig::stream(|listener| {
        listener.allow = vec!["app.*".to_owned()];
        listener.deny = vec!["*.debug".to_owned()];
    })
    .await;
    let mut client = UnixStream::connect(rig.path()).await.unwrap();
    let body =
        "app.x:1|c|zz\nnonsense\ndb.x:1|c\napp.debug:1|c\n_sc|app.up|0\n_e{3,1}:app|t\napp.y:1|c";
    client.write_all(&frame(body)).await.unwrap();
    let lines = rig.lines(3).await;
    assert_eq!(lines, "app.x:1|c|zz\n_sc|app.up|0\napp.y:1|c\n");
    let counters = &rig.counters;
    assert_eq!((counters.lines.get(), counters.filtered.get()), (3, 3));
    assert_eq!(counters.dropped.total(), 1);
    let clients = rig.tracker.clients();
    assert_eq!((clients[0].lines, clients[0].bad_lines), (6, 1));
}

#[tokio::test]
async fn lines_without_a_frame_are_frames_also_if_they_are_left_out() {
    let mut rig = Rig::stream(|listener| listener.deny = vec!["b".to_owned()]).await;
    let mut client = UnixStream::connect(rig.path()).await.unwrap();
    client.write_all(b"a:1|c\nb:1|c\na:2|c\n").await.unwrap();
    assert_eq!(rig.lines(2).await, "a:1|c\na:2|c\n");
    assert_eq!(rig.counters.frames.get(), 3);
}

#[tokio::test]
async fn names_and_tags_are_changed_before_the_listeners_tags_are_added() {
    let mut rig = Rig::start("unixgram", |listener| {
        listener.rename = [("old.".to_owned(), "new.".to_owned())].into();
        listener.drop_tags = vec!["pod_*".to_owned()];
        listener.tags = vec!["pod_of:listener".to_owned()];
        listener.deny = vec!["new.*".to_owned()];
    })
    .await;
    let client = UnixDatagram::unbound().unwrap();
    let datagram = b"old.x:1|c|#pod_uid:7,a:b|T1656581400\nnew.x:1|c\nx:1|c|#pod_uid:7";
    client.send_to(datagram, rig.path()).await.unwrap();
    assert_eq!(
        rig.lines(2).await,
        "new.x:1|c|#a:b,pod_of:listener|T1656581400\nx:1|c|#pod_of:listener\n"
    );
    assert_eq!(rig.counters.filtered.get(), 1);
}

/// A good line, or a bad one, or none, and a name's first letter.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "[abx][a-z.]{0,8}:[0-9]{1,4}\\|(c|g|ms)(\\|#[a-z]{1,3}:[a-z]{1,200})?",
        1 => "[abx]{1,5}",
        1 => Just(String::new()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Lines in = lines out + left out + dropped; and those that pass stay byte for byte,
    /// in order, whatever runs they come in.
    #[test]
    fn prop_each_line_passes_or_is_left_out_or_dropped(
        bodies in prop::collection::vec(prop::collection::vec(line(), 1..60), 1..6),
    ) {
        let sent: Vec<&String> = bodies.iter().flatten().filter(|line| !line.is_empty()).collect();
        let is_good = |line: &&&String| line.contains(':');
        let passing: Vec<&str> = sent
            .iter()
            .filter(is_good)
            .filter(|line| !line.starts_with('x') && !line.starts_with("a."))
            .map(|line| line.as_str())
            .collect();
        let good = sent.iter().filter(is_good).count();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (received, counters) = runtime.block_on(async {
            let rig = Rig::stream(|listener| {
                listener.allow = vec!["a*".to_owned(), "b*".to_owned()];
                listener.deny = vec!["a.*".to_owned()];
            })
            .await;
            let counters = rig.counters.clone();
            let mut client = UnixStream::connect(rig.path()).await.unwrap();
            for body in &bodies {
                client.write_all(&frame(&(body.join("\n") + "\n"))).await.unwrap();
            }
            drop(client);
            (rig.rest().await, counters)
        });
        prop_assert!(received.lines().eq(passing.iter().copied()));
        prop_assert_eq!(counters.lines.get(), passing.len() as u64);
        prop_assert_eq!(counters.filtered.get(), (good - passing.len()) as u64);
        prop_assert_eq!(counters.dropped.total(), (sent.len() - good) as u64);
    }
}
