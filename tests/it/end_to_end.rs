//! Nothing is lost silently: what goes in comes out, or is counted with its reason.

use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::{io::Write, thread};

use rustix::process::Signal;

use crate::support::clients::{framed, send};
use crate::support::counted::Counted;
use crate::support::daemon::{Program, daemon, relay};
use crate::support::lines::total;
use crate::support::netns::eventually;
use crate::support::receiver::Receiver;

/// Senders of each kind.
const SENDERS: usize = 4;
/// Well-formed lines of each sender.
const LINES: usize = 2_000;
/// Every so many lines one follows that is none.
const BETWEEN_MALFORMED: usize = 100;
const MALFORMED: [&str; 4] = [
    "no.value",
    "not.a.number:abc|c",
    "no.type:1",
    "unknown.type:1|q",
];
/// A frame beyond the default `max_frame`, of lines that would be well-formed.
const OVERSIZED_BYTES: usize = 9_000;

/// A sender's lines, malformed ones among them, as payloads of 1 to 20 lines.
fn payloads(sender: &str) -> Vec<String> {
    let mut payloads = vec![String::new()];
    for n in 0..LINES {
        if n % BETWEEN_MALFORMED == 0 {
            push(&mut payloads, MALFORMED[n / BETWEEN_MALFORMED % 4], n);
        }
        push(&mut payloads, &line(sender, n), n);
    }
    payloads
}

fn push(payloads: &mut Vec<String>, line: &str, n: usize) {
    let payload = payloads.last_mut().unwrap();
    payload.push_str(line);
    payload.push('\n');
    if n * 7 % 20 < 3 {
        payloads.push(String::new());
    }
}

fn line(sender: &str, n: usize) -> String {
    format!("{sender}.lines:{n}|c|#number:{n},env:test")
}

fn oversized() -> Vec<u8> {
    let mut frame = Vec::new();
    while frame.len() < OVERSIZED_BYTES {
        frame.extend_from_slice(b"lost.with.its.frame:1|c\n");
    }
    frame
}

/// Length-prefixed, an oversized frame in the middle, written in pieces that ignore frames.
fn send_frames(socket: &Path, sender: &str) {
    let payloads = payloads(sender);
    let mut bytes = Vec::new();
    for (n, payload) in payloads.iter().enumerate() {
        if n == payloads.len() / 2 {
            bytes.extend(framed(&oversized()));
        }
        bytes.extend(framed(payload.as_bytes()));
    }
    let mut stream = UnixStream::connect(socket).unwrap();
    for piece in bytes.chunks(1_013) {
        stream.write_all(piece).unwrap();
    }
}

fn send_text(socket: &Path, sender: &str) {
    let text = payloads(sender).concat();
    let mut stream = UnixStream::connect(socket).unwrap();
    for piece in text.as_bytes().chunks(1_013) {
        stream.write_all(piece).unwrap();
    }
}

fn send_datagrams(socket: &Path, sender: &str) {
    let client = UnixDatagram::unbound().unwrap();
    client.connect(socket).unwrap();
    for payload in payloads(sender) {
        client.send(payload.as_bytes()).unwrap();
    }
    client.send(&oversized()).unwrap();
}

#[test]
fn every_line_comes_out_or_is_counted_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start("unixstream", &directory.join("out"));
    let stream = directory.join("stream.socket");
    let datagram = directory.join("datagram.socket");
    let mut daemon = daemon(
        directory,
        &format!(
            "interval = \"200ms\"\n\
             [collector]\nsource = \"off\"\n\
             [[listener]]\naddress = \"unixstream://{}\"\norigin = \"none\"\n\
             [[listener]]\naddress = \"unixgram://{}\"\norigin = \"none\"\n\
             [[output]]\naddress = \"{}\"\nsources = [\"listeners\"]\n\
             [[output]]\naddress = \"stdout:\"\nsources = [\"collector\"]\n",
            stream.display(),
            datagram.display(),
            receiver.address
        ),
    );

    let mut expected = Vec::new();
    thread::scope(|scope| {
        for n in 0..SENDERS {
            let [frames, text, datagrams] =
                ["frames", "text", "datagrams"].map(|kind| format!("{kind}{n}"));
            for sender in [&frames, &text, &datagrams] {
                expected.extend((0..LINES).map(|n| line(sender, n)));
            }
            let (stream, datagram) = (&stream, &datagram);
            scope.spawn(move || send_frames(stream, &frames));
            scope.spawn(move || send_text(stream, &text));
            scope.spawn(move || send_datagrams(datagram, &datagrams));
        }
        // And one that is gone before its frame ends.
        scope.spawn(|| send(&stream, &framed(b"torn:1|c\n")[..9]));
    });
    expected.sort();
    assert_eq!(receiver.sorted(expected.len()), expected);

    let sent = expected.len();
    let to_receiver: &[&str] = &["output:unixstream"];
    daemon.until("the daemon has counted all that it sent", |daemon| {
        let text = daemon.stdout.text();
        total(&text, "conntally.output.lines_sent", to_receiver) == sent
    });
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(receiver.lines().len(), expected.len(), "nothing came twice");

    let count = |name: &str, tags: &[&str]| total(&ended.stdout, name, tags);
    let each = |reason: &str, number: usize| {
        let reason = format!("reason:{reason}");
        let counted = count("conntally.listener.lines_dropped", &[&reason]);
        assert_eq!(counted, number, "{reason}");
    };
    let senders = 3 * SENDERS;
    let malformed = senders * LINES / BETWEEN_MALFORMED;
    assert_eq!(count("conntally.listener.lines_dropped", &[]), malformed);
    each("value", malformed / 4);
    each("unknown_type", malformed / 4);
    // Each carries an oversized frame, but the text senders.
    let oversized = &["reason:oversized"];
    assert_eq!(
        count("conntally.listener.frames_dropped", oversized),
        2 * SENDERS
    );
    let truncated = &["reason:truncated"];
    assert_eq!(count("conntally.listener.frames_dropped", truncated), 1);
    assert_eq!(count("conntally.listener.lines", &[]), sent);
    let counted = Counted::of(&ended.stdout, &receiver.address);
    assert_eq!(counted.accepted, sent);
    counted.assert_balanced();
}

#[test]
fn an_output_that_drops_counts_what_it_drops() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start("unixstream", &directory.join("out"));
    let socket = directory.join("in.socket");
    let mut daemon = relay(
        directory,
        &format!(
            "[[output]]\naddress = \"{}\"\nsources = [\"listeners\"]\n\
             queue = \"64KiB\"\non_full = \"drop\"\n",
            receiver.address
        ),
    );
    send(&socket, &framed(b"first:1|c\n"));
    receiver.sorted(1);
    receiver.pause();
    // Some ten times what the queue and the sockets behind it hold.
    let lines = 100_000;
    let mut stream = UnixStream::connect(&socket).unwrap();
    for n in (0..lines).step_by(50) {
        let payload: String = (n..n + 50).map(|n| line("drops", n) + "\n").collect();
        stream.write_all(&framed(payload.as_bytes())).unwrap();
    }
    drop(stream);
    let all = lines + 1;
    let counted = |text: &str| Counted::of(text, &receiver.address);
    daemon.until("every line is taken or dropped", |daemon| {
        let counted = counted(&daemon.stdout.text());
        counted.accepted == all && counted.sent + counted.dropped + counted.held == all
    });
    receiver.resume();
    daemon.until("what was held is sent", |daemon| {
        counted(&daemon.stdout.text()).have_gone(all)
    });
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    counted(&ended.stdout).assert_balanced();
    let full: &[&str] = &["output:unixstream", "reason:queue_full"];
    let dropped = total(&ended.stdout, "conntally.output.lines_dropped", full);
    assert!(dropped > 0);
    assert_eq!(receiver.sorted(all - dropped).len(), all - dropped);
}

/// Bytes that each of the senders of a stop writes: less than a socket takes unread.
const UNREAD_BYTES: usize = 96 << 10;
const STOP_SENDERS: usize = 12;

/// A receiver that does not read, and a daemon with more on its way than its queue takes.
fn with_data_in_flight(directory: &Path) -> (Receiver, Program, Vec<String>) {
    let receiver = Receiver::start("unixstream", &directory.join("out"));
    let socket = directory.join("in.socket");
    let daemon = daemon(
        directory,
        &format!(
            "[collector]\nsource = \"off\"\n\
             [report]\ntelemetry = false\n\
             [[listener]]\naddress = \"unixstream://{}\"\norigin = \"none\"\n\
             [[output]]\naddress = \"{}\"\nqueue = \"64KiB\"\non_full = \"block\"\n",
            socket.display(),
            receiver.address
        ),
    );
    // The connection stands before the receiver stops, and with it the output.
    send(&socket, &framed(b"first:1|c\n"));
    receiver.sorted(1);
    receiver.pause();
    let mut expected = vec!["first:1|c".to_owned()];
    for sender in 0..STOP_SENDERS {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let mut written = 0;
        for frame in 0.. {
            let lines: Vec<String> = (0..60)
                .map(|n| format!("{}|T1700000000", line(&format!("s{sender}.f{frame}"), n)))
                .collect();
            let bytes = framed(lines.join("\n").as_bytes());
            written += bytes.len();
            if written > UNREAD_BYTES {
                break;
            }
            stream.write_all(&bytes).unwrap();
            expected.extend(lines);
        }
    }
    expected.sort();
    (receiver, daemon, expected)
}

#[test]
fn a_stop_with_data_in_flight_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (receiver, mut daemon, expected) = with_data_in_flight(directory.path());
    daemon.signal(Signal::TERM);
    daemon.until("the daemon stops", |daemon| {
        daemon.stderr.contains("stopping")
    });
    receiver.resume();
    let ended = daemon.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(receiver.sorted(expected.len()), expected);
}

#[test]
fn an_interrupt_stops_as_sigterm_does() {
    let directory = tempfile::tempdir().unwrap();
    let (receiver, daemon, expected) = with_data_in_flight(directory.path());
    daemon.signal(Signal::INT);
    receiver.resume();
    let ended = daemon.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(receiver.sorted(expected.len()), expected);
}

#[test]
fn a_second_signal_ends_the_daemon_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (receiver, mut daemon, _) = with_data_in_flight(directory.path());
    daemon.signal(Signal::TERM);
    daemon.until("the daemon stops", |daemon| {
        daemon.stderr.contains("stopping")
    });
    daemon.signal(Signal::TERM);
    let ended = daemon.wait();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("second signal"), "{}", ended.stderr);
    let mut log = ended.stderr.lines();
    let held = log.find(|line| line.contains("ERROR") && line.contains(&receiver.address));
    let held = held.unwrap_or_else(|| panic!("{}", ended.stderr));
    let number = |key: &str| -> u64 {
        let (_, rest) = held.split_once(key).unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    assert!(number("held=") > 0 && number("dropped=") == 0, "{held}");
}

#[test]
fn its_sockets_are_gone_when_it_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let stream = directory.join("stream.socket");
    let datagram = directory.join("datagram.socket");
    let daemon = daemon(
        directory,
        &format!(
            "[collector]\nsource = \"off\"\n\
             [[listener]]\naddress = \"unixstream://{}\"\n\
             [[listener]]\naddress = \"unixgram://{}\"\n\
             [[output]]\naddress = \"stdout:\"\n",
            stream.display(),
            datagram.display()
        ),
    );
    assert!(stream.exists() && datagram.exists());
    assert_eq!(daemon.stop().code, Some(0));
    assert!(!stream.exists() && !datagram.exists());
}

#[test]
fn an_output_that_comes_later_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let socket = directory.join("in.socket");
    let out = directory.join("out");
    let mut daemon = daemon(
        directory,
        &format!(
            "[collector]\nsource = \"off\"\n\
             [report]\ntelemetry = false\n\
             [[listener]]\naddress = \"unixstream://{}\"\norigin = \"none\"\n\
             [[output]]\naddress = \"unixstream://{}\"\n",
            socket.display(),
            out.join("socket").display()
        ),
    );
    send(&socket, &framed(b"early:1|c\n"));
    let missing = out.join("socket").display().to_string();
    daemon.until("the missing output is named", |daemon| {
        let text = daemon.stderr.text();
        text.lines()
            .any(|line| line.contains("WARN") && line.contains(&missing))
    });
    let receiver = Receiver::start("unixstream", &out);
    assert_eq!(receiver.sorted(1), ["early:1|c"]);
    assert_eq!(daemon.stop().code, Some(0));
    eventually("the receiver has it once", || receiver.lines().len() == 1);
}
