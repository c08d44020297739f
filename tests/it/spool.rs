//! `spool`: what is left at a stop goes on at the next start.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::support::clients::framed;
use crate::support::daemon::{Program, daemon};
use crate::support::lines::{last, total};
use crate::support::netns::eventually;
use crate::support::receiver::Receiver;

const LINES: usize = 20_000;
const CONTEXTS: usize = 50;

fn relay(directory: &Path, output: &str, keys: &str) -> Program {
    daemon(
        directory,
        &format!(
            "interval = \"100ms\"\n[collector]\nsource = \"off\"\n\
             [[listener]]\naddress = \"unixstream://{0}/in.socket\"\norigin = \"none\"\n\
             [[output]]\naddress = \"{output}\"\nsources = [\"listeners\"]\n\
             spool = \"{0}/spool\"\n{keys}\
             [[output]]\naddress = \"stdout:\"\nsources = [\"collector\"]\n",
            directory.display(),
        ),
    )
}

/// Sends increments, an event, and a gauge that tells how far it came.
fn send(directory: &Path, daemon: &mut Program, output: &str) {
    let mut stream = UnixStream::connect(directory.join("in.socket")).unwrap();
    for n in (0..LINES).step_by(50) {
        let lines: Vec<String> = (n..n + 50)
            .map(|n| format!("spooled.count:1|c|#context:{}\n", n % CONTEXTS))
            .collect();
        stream
            .write_all(&framed(lines.concat().as_bytes()))
            .unwrap();
    }
    let lines = format!("spooled.gauge:{LINES}|g\n_e{{4,4}}:some|text\n");
    stream.write_all(&framed(lines.as_bytes())).unwrap();
    let tag = format!("output:{output}");
    daemon.until("all is taken", |daemon| {
        total(&daemon.stdout.text(), "conntally.output.lines", &[&tag]) == LINES + 2
    });
}

/// The sum of the counts that came.
fn sum(receiver: &Receiver) -> usize {
    let lines = receiver.lines();
    let counts = lines
        .iter()
        .filter_map(|line| line.strip_prefix("spooled.count:"));
    counts
        .map(|line| line.split('|').next().unwrap().parse::<usize>().unwrap())
        .sum()
}

#[test]
fn what_was_not_sent_at_a_stop_is_sent_after_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let place = directory.join("out");
    let output = format!("unixstream://{}/socket", place.display());
    // Some in the queue, the rest in the backlog.
    let mut first = relay(directory, &output, "queue = \"64KiB\"\n");
    send(directory, &mut first, &output);
    let ended = first.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("kept for the next start"),
        "{}",
        ended.stderr
    );
    assert!(
        !ended.stderr.contains("ended with lines held"),
        "{}",
        ended.stderr
    );
    let head = fs::read(directory.join("spool")).unwrap();
    assert!(head.starts_with(b"conntally spool 1 dogstatsd "));

    let receiver = Receiver::start("unixstream", &place);
    assert_eq!(receiver.address, output);
    let mut second = relay(directory, &output, "");
    let tag = format!("output:{output}");
    second.until("all is sent", |daemon| {
        let text = daemon.stdout.text();
        total(&text, "conntally.output.lines_sent", &[&tag]) > 0
            && last(&text, "conntally.output.lines_held", &[&tag]) == Some(0)
    });
    assert!(!directory.join("spool").exists());
    let ended = second.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let last = [
        format!("spooled.gauge:{LINES}|g"),
        "_e{4,4}:some|text".to_owned(),
    ];
    eventually("all arrives", || {
        let lines = receiver.lines();
        sum(&receiver) == LINES && last.iter().all(|line| lines.contains(line))
    });
    assert!(!directory.join("spool").exists(), "nothing was left");
}

#[test]
fn a_damaged_spool_is_put_aside_and_said_to_be() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start("unixstream", &directory.join("out"));
    fs::write(
        directory.join("spool"),
        "conntally spool 1 dogstatsd 1 6 00000000\na:1|c\n",
    )
    .unwrap();
    let mut daemon = relay(directory, &receiver.address, "");
    daemon.until("it is said", |daemon| daemon.stderr.contains("is damaged"));
    assert!(directory.join("spool.damaged").exists());
    send(directory, &mut daemon, &receiver.address);
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    eventually("all arrives", || sum(&receiver) == LINES);
}
