//! One process takes another's place, and no client notices.

mod doors;
mod systemd;

use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::support::clients::framed;
use crate::support::daemon::{Program, configuration, daemon};
use crate::support::receiver::Receiver;
use crate::support::tally::Tally;

/// How often the daemon is replaced under load.
const TIMES: usize = 20;
/// What it says when it goes on.
const GOES_ON: &str = "goes on with what the process before left";

/// A relay with a listener of each kind but UDP, which cannot hold senders up.
fn body(directory: &Path, output: &str, keys: &str) -> String {
    let at = directory.display();
    format!(
        "interval = \"1s\"\n[collector]\nsource = \"off\"\n[report]\ntelemetry = false\n\
         [[listener]]\naddress = \"unixstream://{at}/in.socket\"\norigin = \"none\"\n\
         max_connections = 10000\n\
         [[listener]]\naddress = \"unixgram://{at}/dgram.socket\"\norigin = \"none\"\n\
         [[listener]]\naddress = \"tcp://127.0.0.1:{}\"\n\
         [[output]]\naddress = \"{output}\"\n{keys}",
        free_port()
    )
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn tcp_address(body: &str) -> String {
    let (_, rest) = body.split_once("tcp://").unwrap();
    rest.split('"').next().unwrap().to_owned()
}

/// Replaces the daemon, and waits until it goes on, for the `time`th time.
fn replace(daemon: &mut Program, time: usize) {
    daemon.signal(Signal::USR2);
    daemon.until("it goes on", |daemon| {
        daemon.stderr.text().matches(GOES_ON).count() == time
    });
}

/// Sends increments until it is told to stop; any error is the test's end.
fn send(
    mut write: impl FnMut(&str) -> std::io::Result<()>,
    context: usize,
    stop: &AtomicBool,
) -> usize {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let lines = format!("handed.count:1|c|#context:{context}\n").repeat(20);
        write(&lines).unwrap();
        sent += 20;
    }
    sent
}

#[test]
fn clients_at_full_speed_notice_nothing_of_twenty_replacements() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start("unixstream", &directory.join("out"));
    let body = body(directory, &receiver.address, "on_full = \"block\"\n");
    let mut daemon = daemon(directory, &body);
    let pid = daemon.pid();
    let stop = Arc::new(AtomicBool::new(false));
    let mut senders = Vec::new();
    for context in 0..6 {
        let stop = Arc::clone(&stop);
        let stream = directory.join("in.socket");
        let datagrams = directory.join("dgram.socket");
        let tcp = tcp_address(&body);
        senders.push(thread::spawn(move || match context {
            0 => {
                let socket = UnixDatagram::unbound().unwrap();
                socket.connect(datagrams).unwrap();
                send(
                    |lines| socket.send(lines.as_bytes()).map(drop),
                    context,
                    &stop,
                )
            }
            1 => {
                let mut stream = TcpStream::connect(tcp).unwrap();
                send(|lines| stream.write_all(lines.as_bytes()), context, &stop)
            }
            // A connection for each payload.
            2 => send(
                |lines| UnixStream::connect(&stream)?.write_all(&framed(lines.as_bytes())),
                context,
                &stop,
            ),
            _ => {
                let mut stream = UnixStream::connect(stream).unwrap();
                send(
                    |lines| stream.write_all(&framed(lines.as_bytes())),
                    context,
                    &stop,
                )
            }
        }));
    }
    for time in 1..=TIMES {
        replace(&mut daemon, time);
    }
    stop.store(true, Ordering::Relaxed);
    let sent: Vec<usize> = senders
        .into_iter()
        .map(|sender| sender.join().unwrap())
        .collect();
    assert_eq!(daemon.pid(), pid);
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let tally = Tally::of(
        receiver
            .lines()
            .iter()
            .filter(|line| line.starts_with("handed.")),
    );
    for (context, sent) in sent.iter().enumerate() {
        let got = tally.counts[&format!("handed.count|c|#context:{context}")];
        assert_eq!(got, *sent, "of sender {context}\n{}", ended.stderr);
    }
    assert!(
        !directory.join("in.socket").exists(),
        "it is taken away in the end"
    );
}

#[test]
fn half_a_frame_and_what_was_not_sent_go_to_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let place = directory.join("out");
    let output = format!("unixstream://{}/socket", place.display());
    let body = body(directory, &output, "queue = \"64KiB\"\n");
    let mut daemon = daemon(directory, &body);
    let mut stream = UnixStream::connect(directory.join("in.socket")).unwrap();
    let lines = |n: usize| format!("half.count:1|c|#context:{}\n", n % 10);
    // More than the queue holds, while nobody receives.
    let mut sent = 0;
    for _ in 0..400 {
        let payload: Vec<String> = (0..50).map(lines).collect();
        stream
            .write_all(&framed(payload.concat().as_bytes()))
            .unwrap();
        sent += 50;
    }
    let frame = framed(lines(0).as_bytes());
    let mut time = 0;
    for cut in [1, 4, 9, frame.len() - 1] {
        stream.write_all(&frame[..cut]).unwrap();
        time += 1;
        replace(&mut daemon, time);
        stream.write_all(&frame[cut..]).unwrap();
        sent += 1;
    }
    // A line without its end, of a client that speaks lines.
    let mut plain = UnixStream::connect(directory.join("in.socket")).unwrap();
    plain
        .write_all(b"half.count:1|c|#context:0\nhalf.count:1|")
        .unwrap();
    replace(&mut daemon, time + 1);
    plain.write_all(b"c|#context:1\n").unwrap();
    sent += 2;
    drop((plain, stream));
    let receiver = Receiver::start("unixstream", &place);
    daemon.until("all arrives", |_| {
        let lines = receiver.lines();
        Tally::of(lines.iter().filter(|line| line.starts_with("half."))).increments() >= sent
    });
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines = receiver.lines();
    let tally = Tally::of(lines.iter().filter(|line| line.starts_with("half.")));
    assert_eq!(tally.increments(), sent);
}

#[test]
fn a_configuration_that_does_not_hold_keeps_the_old_process() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = Receiver::start("unixstream", &directory.join("out"));
    let body = body(directory, &receiver.address, "");
    let mut daemon = daemon(directory, &body);
    let mut stream = UnixStream::connect(directory.join("in.socket")).unwrap();
    stream.write_all(&framed(b"kept.count:1|c\n")).unwrap();
    configuration(directory, &format!("{body}no_such_key = 1\n"));
    daemon.signal(Signal::USR2);
    daemon.until("it says why not", |daemon| {
        daemon.stderr.contains("nothing takes this process's place")
            && daemon.stderr.contains("no_such_key")
    });
    stream.write_all(&framed(b"kept.count:1|c\n")).unwrap();
    // Without a listener, its connections are closed, and told of.
    let listener = format!("[[listener]]\naddress = \"tcp://{}\"\n", tcp_address(&body));
    let fewer = body.replace(&listener, "");
    assert_ne!(fewer, body);
    configuration(directory, &fewer);
    replace(&mut daemon, 1);
    daemon.until("it says what is gone", |daemon| {
        daemon
            .stderr
            .contains("a listener was left that is not configured")
    });
    stream.write_all(&framed(b"kept.count:1|c\n")).unwrap();
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines = receiver.lines();
    let kept = lines.iter().filter(|line| line.starts_with("kept."));
    assert_eq!(Tally::of(kept).increments(), 3);
}
