//! A receiver that is a process of its own: this binary again, in one role.
//!
//! What it receives it appends to a file, line by line, where the test reads it, and
//! takes from its socket only then: what a killed one had not written, it had not read.
//! When its standard input ends it says goodbye, reads what was sent, and goes, so that
//! none outlives its test.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use conntally::address::Address;
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use rustix::process::{Pid, Signal, kill_process};

use super::netns::{PATIENCE, eventually};

/// Says to the started binary how fast to receive at which address, and in which
/// directory to write.
const ROLE: &str = "CONNTALLY_TEST_RECEIVE";
/// Written into the file where the last frame or line of a connection did not end.
pub(crate) const TORN: &str = "torn frame";
/// What is read at once, bytes.
const READ_BYTES: usize = 64 << 10;
/// How long a slow receiver rests after each datagram.
const REST: Duration = Duration::from_millis(1);

/// How fast a receiver reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As fast as it can.
    Full,
    /// Streams byte by byte, and datagrams with a rest after each. Until it is to end.
    Slow,
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Slow => "slow",
        })
    }
}

/// A running receiver.
pub(crate) struct Receiver {
    child: Child,
    received: PathBuf,
    /// Where to send to, as an output names it.
    pub(crate) address: String,
    stdin: Option<ChildStdin>,
}

impl Receiver {
    /// Starts one for `unixstream`, `unixgram`, `tcp` or `udp`, or for `unixlines`, which are
    /// lines over a unix stream; `directory` must be its own, or of one that is gone, to whose
    /// lines it adds.
    #[track_caller]
    pub(crate) fn start(scheme: &str, directory: &Path) -> Self {
        let address = match scheme {
            "tcp" | "udp" => format!("{scheme}://127.0.0.1:0"),
            "unixlines" => format!("unix://{}/socket", directory.display()),
            _ => format!("{scheme}://{}/socket", directory.display()),
        };
        Self::start_at(&address, directory, Pace::Full)
    }

    /// The same at this address. A socket file that is there is replaced, whether there
    /// is still one behind it or not.
    #[track_caller]
    pub(crate) fn start_at(address: &str, directory: &Path, pace: Pace) -> Self {
        fs::create_dir_all(directory).unwrap();
        fs::remove_file(directory.join("address")).ok();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "support::receiver::receive",
                "--ignored",
                "--nocapture",
            ])
            .env(ROLE, format!("{pace} {address} {}", directory.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
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

    /// The file that its lines are written to.
    pub(crate) fn received(&self) -> &Path {
        &self.received
    }

    /// Whether it has written anything.
    pub(crate) fn has_lines(&self) -> bool {
        fs::metadata(&self.received).unwrap().len() > 0
    }

    /// Ends it, and starts another where it was, that goes on with its file.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let directory = self.received.parent().unwrap().to_owned();
        *self = Self::start_at(&self.address, &directory, Pace::Full);
    }

    /// The lines so far, in the order of their coming.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.received).unwrap();
        // It may be read in the middle of a write.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(str::to_owned).collect()
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

    /// Kills it, whatever it is at.
    pub(crate) fn kill(&mut self) {
        // It may be gone already.
        self.child.kill().ok();
        self.child.wait().unwrap();
    }

    /// Asks it to take nothing more than what was sent to it so far, and waits until it
    /// has. A TCP connection that was not accepted yet is lost: there it must have lines.
    #[track_caller]
    pub(crate) fn end(&mut self) {
        drop(self.stdin.take());
        let mut status = None;
        eventually("the receiver ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{status:?}");
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where payloads of all connections go, and how fast.
#[derive(Clone)]
struct Received {
    file: Arc<Mutex<File>>,
    is_slow: Arc<AtomicBool>,
}

impl Received {
    fn write(&self, lines: &[u8]) {
        self.file.lock().unwrap().write_all(lines).unwrap();
    }

    fn is_slow(&self) -> bool {
        self.is_slow.load(Ordering::Acquire)
    }

    /// Receives a stream to its end; `whole` moves what is whole of it to lines.
    fn stream(&self, stream: impl AsFd, whole: impl Fn(&mut Vec<u8>) -> Vec<u8>) {
        let mut buffer = vec![0; READ_BYTES];
        let mut pending = Vec::new();
        loop {
            let most = if self.is_slow() { 1 } else { READ_BYTES };
            let length = receive_into(&stream, &mut buffer[..most], RecvFlags::PEEK);
            if length == 0 {
                break;
            }
            pending.extend_from_slice(&buffer[..length]);
            self.write(&whole(&mut pending));
            receive_into(&stream, &mut buffer[..length], RecvFlags::WAITALL);
        }
        if !pending.is_empty() {
            self.write(format!("{TORN}\n").as_bytes());
        }
    }

    /// Receives datagrams until one is empty, or there is none where it should not wait.
    fn datagrams(&self, socket: impl AsFd, wait: RecvFlags) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let length = receive_into(&socket, &mut buffer, RecvFlags::PEEK | wait);
            if length == 0 {
                return;
            }
            self.write(&with_newline(&buffer[..length]));
            receive_into(&socket, &mut buffer, wait);
            if self.is_slow() {
                thread::sleep(REST);
            }
        }
    }
}

/// Receives, whatever signals come; nothing at the end, on errors, and where it should
/// not wait.
fn receive_into(socket: impl AsFd, buffer: &mut [u8], flags: RecvFlags) -> usize {
    loop {
        match recv(&socket, &mut *buffer, flags) {
            Ok((length, _)) => return length,
            Err(Errno::INTR) => {}
            Err(_) => return 0,
        }
    }
}

fn with_newline(payload: &[u8]) -> Vec<u8> {
    let mut lines = payload.to_vec();
    if lines.last().is_some_and(|&last| last != b'\n') {
        lines.push(b'\n');
    }
    lines
}

/// Takes whole frames out, and returns their lines.
fn frames(pending: &mut Vec<u8>) -> Vec<u8> {
    let mut lines = Vec::new();
    let mut rest = &**pending;
    while let Some((header, behind)) = rest.split_first_chunk() {
        let length = u32::from_le_bytes(*header) as usize;
        let Some((payload, behind)) = behind.split_at_checked(length) else {
            break;
        };
        lines.extend(with_newline(payload));
        rest = behind;
    }
    let taken = pending.len() - rest.len();
    pending.drain(..taken);
    lines
}

/// Takes whole lines out.
fn text(pending: &mut Vec<u8>) -> Vec<u8> {
    let whole = memchr::memrchr(b'\n', pending).map_or(0, |last| last + 1);
    pending.drain(..whole).collect()
}

/// Accepts connections and receives each on a thread. Returns how that ends.
fn serve(
    listener: impl AsFd + Send + Sync + 'static,
    accept: impl Fn() -> io::Result<OwnedFd> + Send + 'static,
    receive: impl Fn(OwnedFd) + Clone + Send + 'static,
) -> impl FnOnce() {
    let streams = Arc::new(Mutex::new(Vec::new()));
    let accepted = Arc::clone(&streams);
    let accepting = thread::spawn(move || {
        while let Ok(stream) = accept() {
            let (receive, same) = (receive.clone(), stream.try_clone().unwrap());
            let receiving = thread::spawn(move || receive(same));
            accepted.lock().unwrap().push((stream, receiving));
        }
    });
    move || {
        shutdown(listener, Shutdown::Both).unwrap();
        accepting.join().unwrap();
        for (stream, receiving) in streams.lock().unwrap().drain(..) {
            // The other end may have gone first.
            shutdown(stream, Shutdown::Write).ok();
            receiving.join().unwrap();
        }
    }
}

impl Received {
    /// Receives at an address. Returns the address with its port, and how to end.
    fn listen(self, address: &Address) -> io::Result<(String, Box<dyn FnOnce()>)> {
        if let Some(path) = address.path() {
            // Nobody's any more, or somebody's whose place this one takes.
            fs::remove_file(path).ok();
        }
        Ok(match address {
            Address::UnixStream(path) => {
                let listener = Arc::new(UnixListener::bind(path)?);
                let accepting = Arc::clone(&listener);
                let end = serve(
                    listener,
                    move || Ok(accepting.accept()?.0.into()),
                    move |stream| self.stream(stream, frames),
                );
                (address.to_string(), Box::new(end))
            }
            Address::Unix(path) => {
                let listener = Arc::new(UnixListener::bind(path)?);
                let accepting = Arc::clone(&listener);
                let end = serve(
                    listener,
                    move || Ok(accepting.accept()?.0.into()),
                    move |stream| self.stream(stream, text),
                );
                (format!("unixstream://{}", path.display()), Box::new(end))
            }
            Address::Tcp(end) => {
                let listener = Arc::new(TcpListener::bind((end.host.as_str(), end.port))?);
                let address = format!("tcp://{}", listener.local_addr()?);
                let accepting = Arc::clone(&listener);
                let end = serve(
                    listener,
                    move || Ok(accepting.accept()?.0.into()),
                    move |stream| self.stream(stream, text),
                );
                (address, Box::new(end))
            }
            Address::UnixDatagram(path) => {
                let socket = Arc::new(UnixDatagram::bind(path)?);
                let refuse = |socket: &UnixDatagram| shutdown(socket, Shutdown::Read);
                (address.to_string(), self.until_refused(socket, refuse))
            }
            Address::Udp(end) => {
                let socket = Arc::new(UdpSocket::bind((end.host.as_str(), end.port))?);
                let address = format!("udp://{}", socket.local_addr()?);
                (address, self.until_refused(socket, refuse_udp))
            }
            Address::Stdout => panic!("not a kind to listen on"),
        })
    }

    /// Receives datagrams on a thread. Returns how that ends: others are refused, the
    /// thread finds an empty datagram, and what is there all the same is read.
    fn until_refused<S, E>(
        self,
        socket: Arc<S>,
        refuse: impl Fn(&S) -> Result<(), E> + 'static,
    ) -> Box<dyn FnOnce()>
    where
        S: AsFd + Send + Sync + 'static,
        E: fmt::Debug,
    {
        let received = self.clone();
        let receiving = Arc::clone(&socket);
        let receiving =
            thread::spawn(move || received.datagrams(receiving.as_fd(), RecvFlags::empty()));
        Box::new(move || {
            refuse(&socket).unwrap();
            receiving.join().unwrap();
            self.datagrams(socket.as_fd(), RecvFlags::DONTWAIT);
        })
    }
}

/// Takes datagrams from nobody but itself, and sends itself an empty one.
fn refuse_udp(socket: &UdpSocket) -> io::Result<()> {
    let own: SocketAddr = socket.local_addr()?;
    socket.connect(own)?;
    socket.send(&[]).map(drop)
}

#[test]
#[ignore = "a role that other tests start in a process of its own"]
fn receive() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let (pace, rest) = role.split_once(' ').unwrap();
    let (address, directory) = rest.split_once(' ').unwrap();
    let directory = Path::new(directory);
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("received"))
        .unwrap();
    let is_slow = Arc::new(AtomicBool::new(pace == Pace::Slow.to_string()));
    let received = Received {
        file: Arc::new(Mutex::new(file)),
        is_slow: Arc::clone(&is_slow),
    };
    let (address, end) = received.listen(&address.parse().unwrap()).unwrap();
    fs::write(directory.join("address"), format!("{address}\n")).unwrap();
    // Until the test is gone, or lets it go.
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
    is_slow.store(false, Ordering::Release);
    thread::spawn(|| {
        thread::sleep(PATIENCE);
        std::process::exit(1);
    });
    end();
}
