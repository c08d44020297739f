//! Rates of outputs and of connections, held by the daemon against a receiver with a clock
//! of its own.

use std::io::{ErrorKind, Write};
use std::net::UdpSocket;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::clients::framed;
use crate::support::daemon::daemon;
use crate::support::lines::total;

const RATE: u64 = 64 << 10;
const BURST: u64 = 8 << 10;
/// About what goes in two seconds.
const LINES: usize = 2_000;
const LINE_BYTES: u64 = 64;

fn line(n: usize) -> String {
    let mut line = format!("throttled:{n}|c|#padding:");
    while line.len() < 63 {
        line.push('x');
    }
    line + "\n"
}

fn receiver() -> UdpSocket {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    receiver
}

/// Reads until so many lines have come; holds each datagram to the rate and the burst.
fn receive(socket: &UdpSocket, wanted: usize, begun: Instant, burst: u64) -> usize {
    let mut buffer = vec![0; 64 << 10];
    let (mut bytes, mut lines) = (0, 0);
    while lines < wanted {
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        };
        bytes += length as u64;
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap();
        let most = RATE * (millis + 1) / 1000 + burst;
        assert!(bytes <= most, "{bytes} bytes after {millis} ms");
        lines += memchr::memchr_iter(b'\n', &buffer[..length]).count();
    }
    lines
}

#[test]
fn a_receiver_gets_no_more_than_rate_and_burst_also_at_the_stop() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let receiver = receiver();
    let socket = directory.join("dsd.socket");
    let begun = Instant::now();
    let mut daemon = daemon(
        directory,
        &format!(
            "interval = \"100ms\"\n\
             [collector]\nsource = \"off\"\n\
             [[listener]]\naddress = \"unixgram://{}\"\norigin = \"none\"\n\
             [[output]]\naddress = \"udp://{}\"\nsources = [\"listeners\"]\n\
             rate = \"{RATE}B/s\"\nburst = \"{BURST}B\"\n\
             [[output]]\naddress = \"stdout:\"\nsources = [\"collector\"]\n",
            socket.display(),
            receiver.local_addr().unwrap()
        ),
    );
    let reading = thread::spawn(move || receive(&receiver, LINES, begun, BURST));
    let client = UnixDatagram::unbound().unwrap();
    client.connect(&socket).unwrap();
    for n in 0..LINES {
        let line = line(n);
        assert_eq!(line.len() as u64, LINE_BYTES);
        client.send(line.as_bytes()).unwrap();
    }
    let waits = |text: &str| total(text, "conntally.output.throttled", &["output:udp"]);
    daemon.until("the daemon tells that payloads waited", |daemon| {
        waits(&daemon.stdout.text()) > 0
    });
    // What it holds goes at the same rate.
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(reading.join().unwrap(), LINES);
    let waited = total(
        &ended.stdout,
        "conntally.output.throttled_us",
        &["output:udp"],
    );
    assert!(waited > 0);
    let dropped = total(&ended.stdout, "conntally.output.lines_dropped", &[]);
    assert_eq!(dropped, 0, "{}", ended.stderr);
}

#[test]
fn a_connection_is_read_at_its_rate_and_another_meanwhile() {
    /// What a burst lets through, and two seconds more.
    const FLOOD: usize = 4_000;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (receiver, quiet_receiver) = (receiver(), receiver());
    let socket = directory.join("dsd_stream.socket");
    let begun = Instant::now();
    let mut daemon = daemon(
        directory,
        &format!(
            "interval = \"100ms\"\n\
             [collector]\nsource = \"off\"\n\
             [[listener]]\naddress = \"unixstream://{}\"\norigin = \"none\"\nrate = \"{RATE}B/s\"\n\
             [[output]]\naddress = \"udp://{}\"\nsources = [\"listeners\"]\nonly = [\"throttled\"]\n\
             [[output]]\naddress = \"udp://{}\"\nsources = [\"listeners\"]\nonly = [\"quiet\"]\n\
             [[output]]\naddress = \"stdout:\"\nsources = [\"collector\"]\n",
            socket.display(),
            receiver.local_addr().unwrap(),
            quiet_receiver.local_addr().unwrap()
        ),
    );
    // At once may come a second's bytes, and as many were paid for ahead.
    let reading = thread::spawn(move || receive(&receiver, FLOOD, begun, 2 * RATE));
    let path = socket.clone();
    let flood = thread::spawn(move || {
        let mut client = UnixStream::connect(path).unwrap();
        for n in 0..FLOOD {
            client.write_all(&framed(line(n).as_bytes())).unwrap();
        }
    });
    let waits = |text: &str| total(text, "conntally.listener.throttled", &[]);
    daemon.until("the daemon tells that reads waited", |daemon| {
        waits(&daemon.stdout.text()) > 0
    });
    let mut quiet = UnixStream::connect(&socket).unwrap();
    quiet.write_all(&framed(b"quiet:1|c\n")).unwrap();
    assert_eq!(quiet_receiver.recv(&mut [0; 64]).unwrap(), 10);
    flood.join().unwrap();
    assert_eq!(reading.join().unwrap(), FLOOD);
    drop(quiet);
    let ended = daemon.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let waited = total(&ended.stdout, "conntally.listener.throttled_us", &[]);
    assert!(waited > 0);
    assert_eq!(
        total(&ended.stdout, "conntally.listener.lines", &[]),
        FLOOD + 1
    );
}
