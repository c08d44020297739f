//! A receiver that is a process of its own: this binary again, in one role.
//!
//! What it receives it appends to a file, line by line, where the test reads it. It
//! ends when its standard input does, so that none outlives its test.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::netns::eventually;

/// Says to the started binary which scheme to receive, and in which directory.
const ROLE: &str = "CONNTALLY_TEST_RECEIVE";
/// Written into the file where a frame did not end.
const TORN: &str = "torn frame";

/// A running receiver.
pub(crate) struct Receiver {
    child: Child,
    received: PathBuf,
    /// Where to send to, as an output names it.
    pub(crate) address: String,
    stdin: ChildStdin,
}

impl Receiver {
    /// Starts one for `unixstream`, `unixgram`, `tcp` or `udp`, or for `unixlines`, which are
    /// lines over a unix stream; `directory` must be its own.
    #[track_caller]
    pub(crate) fn start(scheme: &str, directory: &Path) -> Self {
        fs::create_dir_all(directory).unwrap();
        let (child, stdin) = spawn(scheme, directory);
        let mut address = String::new();
        eventually("the receiver listens", || {
            address = fs::read_to_string(directory.join("address")).unwrap_or_default();
            address.ends_with('\n')
        });
        Self {
            child,
            received: directory.join("received"),
            address: address.trim_end().to_owned(),
            stdin,
        }
    }

    /// Ends it, and starts another where it was, by its path, that goes on with its file.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        let (scheme, path) = self.address.split_once("://").unwrap();
        let path = Path::new(path);
        let directory = path.parent().unwrap();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        fs::remove_file(path).unwrap();
        (self.child, self.stdin) = spawn(scheme, directory);
        eventually("the next receiver listens", || path.exists());
    }

    /// The lines so far, in the order of their coming.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.received).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits for so many lines, and returns them as they came, each with its newline.
    #[track_caller]
    pub(crate) fn bytes(&self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        eventually(&format!("{count} lines arrive"), || {
            bytes = fs::read(&self.received).unwrap();
            memchr::memchr_iter(b'\n', &bytes).count() >= count
        });
        bytes
    }

    /// Waits for so many lines, and returns them sorted.
    #[track_caller]
    pub(crate) fn sorted(&self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        eventually(&format!("{count} lines arrive"), || {
            lines = self.lines();
            lines.len() >= count
        });
        lines.sort();
        lines
    }

    /// Keeps it from reading.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it read again.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Starts this binary in its role.
fn spawn(scheme: &str, directory: &Path) -> (Child, ChildStdin) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "support::receiver::receive",
            "--ignored",
            "--nocapture",
        ])
        .env(ROLE, format!("{scheme} {}", directory.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

/// Where payloads of all connections go.
#[derive(Clone)]
struct Received(Arc<Mutex<File>>);

impl Received {
    fn payload(&self, payload: &[u8]) -> io::Result<()> {
        let mut lines = payload.to_vec();
        if lines.last().is_some_and(|&last| last != b'\n') {
            lines.push(b'\n');
        }
        self.0.lock().unwrap().write_all(&lines)
    }

    fn frames(&self, mut stream: impl Read) -> io::Result<()> {
        loop {
            let mut header = Vec::new();
            stream.by_ref().take(4).read_to_end(&mut header)?;
            let Ok(length) = <[u8; 4]>::try_from(header.as_slice()) else {
                let torn = if header.is_empty() { "" } else { TORN };
                return self.payload(torn.as_bytes());
            };
            let length = u32::from_le_bytes(length);
            let mut payload = Vec::new();
            stream
                .by_ref()
                .take(length.into())
                .read_to_end(&mut payload)?;
            if payload.len() < length as usize {
                return self.payload(TORN.as_bytes());
            }
            self.payload(&payload)?;
        }
    }

    fn text(&self, mut stream: impl Read) -> io::Result<()> {
        let mut pending = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                return self.payload(&pending);
            }
            pending.extend_from_slice(&buffer[..length]);
            let whole = memchr::memrchr(b'\n', &pending).map_or(0, |last| last + 1);
            self.payload(&pending[..whole])?;
            pending.drain(..whole);
        }
    }

    fn datagrams(&self, mut receive: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = receive(&mut buffer)?;
            self.payload(&buffer[..length])?;
        }
    }

    fn listen(&self, scheme: &str, directory: &Path) -> io::Result<String> {
        let path = directory.join("socket");
        let received = self.clone();
        Ok(match scheme {
            "unixstream" => {
                let listener = UnixListener::bind(&path)?;
                thread::spawn(move || {
                    for stream in listener.incoming() {
                        let (received, stream) = (received.clone(), stream.unwrap());
                        thread::spawn(move || received.frames(stream).unwrap());
                    }
                });
                format!("unixstream://{}", path.display())
            }
            "unixlines" => {
                let listener = UnixListener::bind(&path)?;
                thread::spawn(move || {
                    for stream in listener.incoming() {
                        let (received, stream) = (received.clone(), stream.unwrap());
                        thread::spawn(move || received.text(stream).unwrap());
                    }
                });
                format!("unixstream://{}", path.display())
            }
            "tcp" => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let address = listener.local_addr()?;
                thread::spawn(move || {
                    for stream in listener.incoming() {
                        let (received, stream) = (received.clone(), stream.unwrap());
                        thread::spawn(move || received.text(stream).unwrap());
                    }
                });
                format!("tcp://{address}")
            }
            "unixgram" => {
                let socket = UnixDatagram::bind(&path)?;
                thread::spawn(move || received.datagrams(|buffer| socket.recv(buffer)));
                format!("unixgram://{}", path.display())
            }
            _ => {
                let socket = UdpSocket::bind("127.0.0.1:0")?;
                let address = socket.local_addr()?;
                thread::spawn(move || received.datagrams(|buffer| socket.recv(buffer)));
                format!("udp://{address}")
            }
        })
    }
}

#[test]
#[ignore = "a role that other tests start in a process of its own"]
fn receive() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let (scheme, directory) = role.split_once(' ').unwrap();
    let directory = Path::new(directory);
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("received"))
        .unwrap();
    let received = Received(Arc::new(Mutex::new(file)));
    let address = received.listen(scheme, directory).unwrap();
    fs::write(directory.join("address"), format!("{address}\n")).unwrap();
    // Until the test is gone.
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
