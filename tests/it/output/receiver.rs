//! A receiver in a process of its own: this test binary, run again.
//!
//! It checks each line it gets against the line that was sent, and writes the
//! line's number to a file before it reads on, so that the file tells what it had
//! dealt with when it was killed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conntally::address::Address;
use rustix::process::{Pid, Signal, kill_process};

const ADDRESS: &str = "CONNTALLY_TEST_RECEIVER";
const LOG: &str = "CONNTALLY_TEST_LOG";

/// What a receiver reads at once, and so the most it loses when it is killed, beside
/// what waits in the kernel.
pub(super) const READ_BYTES: usize = 64 << 10;

/// The line with this number: about 120 bytes.
pub(super) fn line(number: u64) -> String {
    let check = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let pad = "x".repeat(usize::try_from(number % 17).unwrap() + 64);
    format!("t.{number}:{check}|c|#pad:{pad},service:relay\n")
}

/// A receiving process. Ended when dropped.
pub(super) struct Receiver {
    child: Child,
    log: PathBuf,
    /// Where it listens: with its port, if that was left open.
    pub(super) address: Address,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Receiver {
    /// Starts one that listens on `address` and logs to `log`; returns when it does.
    pub(super) fn start(address: &str, log: &Path) -> Self {
        let mut child = itself("output::receiver::receiving_process")
            .env(ADDRESS, address)
            .env(LOG, log)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .find_map(|line| line.unwrap().split_once("ready ")?.1.parse().ok())
            .expect("the receiver is ready");
        // What libtest prints at its end must find a reader.
        std::thread::spawn(move || lines.count());
        Self {
            child,
            log: log.to_owned(),
            address,
        }
    }

    /// Kills it, whatever it is at.
    pub(super) fn kill(&mut self) {
        // It may be gone already.
        drop(self.child.kill());
        self.child.wait().unwrap();
    }

    /// Asks it to take what was sent and go: it says goodbye on its connections and
    /// reads them to the end, which the output must be free to notice meanwhile.
    pub(super) async fn stop(mut self) -> Received {
        let stopping = tokio::task::spawn_blocking(move || {
            drop(self.child.stdin.take());
            assert!(self.child.wait().unwrap().success());
            Received::read(&self.log)
        });
        stopping.await.unwrap()
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Bytes of its log: grows as it receives.
    pub(super) fn progress(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |log| log.len())
    }
}

/// What receivers with one log took.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) numbers: BTreeSet<u64>,
    pub(super) repeated: u64,
    pub(super) garbled: Vec<String>,
}

impl Received {
    pub(super) fn read(log: &Path) -> Self {
        let mut received = Self::default();
        let text = fs::read_to_string(log).unwrap();
        for entry in text.lines() {
            match entry.parse() {
                Ok(number) if received.numbers.insert(number) => {}
                Ok(_) => received.repeated += 1,
                Err(_) => received.garbled.push(entry.to_owned()),
            }
        }
        received
    }

    /// All lines to `count`, once each.
    pub(super) fn assert_whole(&self, count: u64) {
        self.assert_clean();
        let wanted: BTreeSet<u64> = (0..count).collect();
        let missing: Vec<_> = wanted.difference(&self.numbers).take(5).collect();
        assert!(missing.is_empty(), "missing: {missing:?}…");
        assert_eq!(self.numbers.len() as u64, count);
    }

    pub(super) fn assert_clean(&self) {
        assert!(self.garbled.is_empty(), "garbled: {:?}", self.garbled);
        assert_eq!(self.repeated, 0, "repeated");
    }
}

/// This test binary, to run one of its ignored tests.
pub(super) fn itself(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        test,
        "--exact",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    command
}

#[test]
#[ignore = "the receiving process that other tests start"]
fn receiving_process() {
    let Ok(address) = std::env::var(ADDRESS) else {
        return;
    };
    let log = Log::open(&std::env::var(LOG).unwrap());
    if let Some(path) = address.parse::<Address>().unwrap().path() {
        // A killed one before left it there.
        drop(fs::remove_file(path));
    }
    match address.parse().unwrap() {
        Address::Udp(end) => {
            let socket = UdpSocket::bind((end.host, end.port)).unwrap();
            ready(&format!("udp://{}", socket.local_addr().unwrap()));
            socket.set_read_timeout(Some(POLL)).unwrap();
            datagrams(&log, |buffer| socket.recv(buffer));
        }
        Address::UnixDatagram(path) => {
            let socket = UnixDatagram::bind(path).unwrap();
            ready(&address);
            socket.set_read_timeout(Some(POLL)).unwrap();
            datagrams(&log, |buffer| socket.recv(buffer));
        }
        Address::UnixStream(path) => {
            let listener = UnixListener::bind(path).unwrap();
            ready(&address);
            streams(
                &listener,
                || Ok(listener.accept()?.0),
                |stream: &UnixStream| stream.shutdown(Shutdown::Write),
                |stream| frames(&log, stream),
            );
        }
        Address::Tcp(end) => {
            let listener = TcpListener::bind((end.host, end.port)).unwrap();
            ready(&format!("tcp://{}", listener.local_addr().unwrap()));
            streams(
                &listener,
                || Ok(listener.accept()?.0),
                |stream: &TcpStream| stream.shutdown(Shutdown::Write),
                |stream| lines(&log, stream),
            );
        }
        Address::Unix(_) | Address::Stdout => panic!("not a kind to listen on"),
    }
}

/// How often a datagram receiver looks whether it shall stop.
const POLL: Duration = Duration::from_millis(20);

fn ready(address: &str) {
    println!("ready {address}");
    io::stdout().flush().unwrap();
}

struct Log(Mutex<File>);

impl Log {
    fn open(path: &str) -> Self {
        let file = File::options().create(true).append(true).open(path);
        Self(Mutex::new(file.unwrap()))
    }

    /// Checks and notes each line.
    fn note(&self, lines: &[u8]) {
        let mut entries = Vec::new();
        for text in lines.split_inclusive(|&byte| byte == b'\n') {
            let text = String::from_utf8_lossy(text);
            let number = text
                .strip_prefix("t.")
                .and_then(|rest| rest.split_once(':')?.0.parse().ok())
                .filter(|&number| line(number) == text);
            match number {
                Some(number) => writeln!(entries, "{number}").unwrap(),
                None => writeln!(entries, "{text:?}").unwrap(),
            }
        }
        let mut file = self.0.lock().unwrap();
        file.write_all(&entries).unwrap();
    }
}

fn datagrams(log: &Log, recv: impl Fn(&mut [u8]) -> io::Result<usize>) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            io::stdin().read_to_end(&mut Vec::new()).unwrap();
            stop.store(true, Ordering::Release);
        });
        let mut buffer = vec![0; 1 << 20];
        loop {
            let stopping = stop.load(Ordering::Acquire);
            match recv(&mut buffer) {
                Ok(bytes) => log.note(&buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if stopping {
                        break;
                    }
                }
                // Stopped and resumed by a signal.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
}

/// Serves one connection at a time, as an output has one.
fn streams<S: Send + Sync>(
    listener: impl AsFd,
    accept: impl Fn() -> io::Result<S> + Sync,
    goodbye: impl Fn(&S) -> io::Result<()> + Sync,
    serve: impl Fn(&S) + Sync,
) {
    let current: Mutex<Option<Arc<S>>> = Mutex::new(None);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok(stream) = accept() {
                let stream = Arc::new(stream);
                *current.lock().unwrap() = Some(Arc::clone(&stream));
                serve(&stream);
                *current.lock().unwrap() = None;
            }
        });
        io::stdin().read_to_end(&mut Vec::new()).unwrap();
        // No more connections: what would be sent by one dies with the listener.
        rustix::net::shutdown(listener, rustix::net::Shutdown::Both).unwrap();
        if let Some(stream) = &*current.lock().unwrap() {
            // The other end may have gone first.
            drop(goodbye(stream));
        }
    });
}

/// Length-prefixed frames to the end of the stream; a cut one is no frame.
fn frames(log: &Log, mut stream: impl Read) {
    let mut buffer = Vec::new();
    while read(&mut stream, &mut buffer) {
        while let Some((prefix, rest)) = buffer.split_first_chunk() {
            let length = usize::try_from(u32::from_le_bytes(*prefix)).unwrap();
            assert!(
                (1..=8192).contains(&length),
                "the stream is out of step: {length}"
            );
            let Some(frame) = rest.get(..length) else {
                break;
            };
            log.note(frame);
            buffer.drain(..size_of::<u32>() + length);
        }
    }
}

/// Lines to the end of the stream; a cut one is no line.
fn lines(log: &Log, mut stream: impl Read) {
    let mut buffer = Vec::new();
    while read(&mut stream, &mut buffer) {
        let end = buffer.iter().rposition(|&byte| byte == b'\n');
        let end = end.map_or(0, |newline| newline + 1);
        log.note(&buffer[..end]);
        buffer.drain(..end);
    }
}

fn read(stream: &mut impl Read, buffer: &mut Vec<u8>) -> bool {
    let mut part = vec![0; READ_BYTES];
    let bytes = stream.read(&mut part).unwrap_or_default();
    buffer.extend_from_slice(&part[..bytes]);
    bytes > 0
}
