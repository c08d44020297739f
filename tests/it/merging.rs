//! `on_full = "merge"`: a receiver that stands still costs no count.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use crate::support::clients::framed;
use crate::support::counted::Counted;
use crate::support::daemon::relay;
use crate::support::receiver::Receiver;
use crate::support::tally::Tally;

/// Contexts of each type.
const CONTEXTS: usize = 100;
const LINES: usize = 200_000;

/// The `n`th line: an increment or a gauge that says how many came before it.
fn line(n: usize) -> String {
    let context = n / 2 % CONTEXTS;
    if n.is_multiple_of(2) {
        format!("merges.count:1|c|#context:{context}\n")
    } else {
        format!("merges.gauge:{n}|g|#context:{context}\n")
    }
}

fn stands_still(scheme: &str) {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start(scheme, &directory.join("out"));
    let socket = directory.join("in.socket");
    let mut daemon = relay(
        directory,
        &format!(
            "[[output]]\naddress = \"{}\"\nsources = [\"listeners\"]\n\
             queue = \"64KiB\"\non_full = \"merge\"\n",
            receiver.address
        ),
    );
    let mut stream = UnixStream::connect(&socket).unwrap();
    let mut send_lines = |from: usize, to: usize| {
        for n in (from..to).step_by(50) {
            let payload: String = (n..n + 50).map(line).collect();
            stream.write_all(&framed(payload.as_bytes())).unwrap();
        }
    };
    send_lines(0, 1000);
    receiver.sorted(1000);
    receiver.pause();
    send_lines(1000, LINES);
    let counted = |text: &str| Counted::of(text, &receiver.address);
    daemon.until("every line is taken", |daemon| {
        counted(&daemon.stdout.text()).accepted == LINES
    });
    receiver.resume();
    daemon.until("what was held is sent", |daemon| {
        counted(&daemon.stdout.text()).have_gone(LINES)
    });
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let counted = counted(&ended.stdout);
    assert_eq!(counted.dropped, 0, "{}", ended.stdout);
    counted.assert_balanced();
    assert!(counted.merged > LINES / 2, "{counted:?}");

    // None goes back: the last that comes is the last that was sent.
    receiver.sorted(counted.sent);
    let got = Tally::of(receiver.lines());
    let sent = Tally::of((0..LINES).map(|n| line(n).trim_end().to_owned()));
    assert_eq!((got.counts, got.gauges), (sent.counts, sent.gauges));
}

#[test]
fn a_stream_receiver_that_stands_still_gets_every_count_and_the_last_of_each_gauge() {
    stands_still("unixstream");
}

#[test]
fn a_datagram_receiver_that_stands_still_gets_every_count_and_the_last_of_each_gauge() {
    stands_still("unixgram");
}
