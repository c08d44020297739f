//! The receiving side: counts lines, and says how many when it is asked.

use std::io::{self, BufRead, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::workload::Sink;

/// Lines so far, over all connections.
static LINES: AtomicU64 = AtomicU64::new(0);

const READ_BYTES: usize = 256 << 10;
/// The largest datagram that UDP carries.
const DATAGRAM_BYTES: usize = 64 << 10;
/// Room for what arrives while the receiver waits for its turn on the processor.
const SOCKET_BYTES: usize = 32 << 20;

/// Lines in pieces of text; the last may lack its newline.
#[derive(Default)]
struct Lines {
    open: bool,
}

impl Lines {
    fn piece(&mut self, bytes: &[u8]) {
        if let Some(&last) = bytes.last() {
            self.open = last != b'\n';
            let newlines = memchr::memchr_iter(b'\n', bytes).count();
            LINES.fetch_add(newlines as u64, Ordering::Relaxed);
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            LINES.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Walks length-prefixed frames that arrive in arbitrary pieces.
#[derive(Default)]
struct Frames {
    header: Vec<u8>,
    missing: usize,
    lines: Lines,
}

impl Frames {
    fn piece(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.missing == 0 {
                let (header, rest) = bytes.split_at(bytes.len().min(4 - self.header.len()));
                self.header.extend_from_slice(header);
                bytes = rest;
                if let Ok(length) = <[u8; 4]>::try_from(self.header.as_slice()) {
                    self.missing = u32::from_le_bytes(length) as usize;
                    self.header.clear();
                }
            } else {
                let (payload, rest) = bytes.split_at(bytes.len().min(self.missing));
                self.lines.piece(payload);
                self.missing -= payload.len();
                bytes = rest;
                if self.missing == 0 {
                    self.lines.end();
                }
            }
        }
    }
}

fn read_all(mut stream: impl Read, mut piece: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => piece(&buffer[..length]),
        }
    }
}

fn datagrams(mut receive: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    let mut lines = Lines::default();
    loop {
        let length = receive(&mut buffer)?;
        lines.piece(&buffer[..length]);
        lines.end();
    }
}

fn enlarge(socket: impl AsFd) {
    // Beyond the system's limit for those who may; else up to it.
    let forced = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BYTES);
    if forced.is_err() {
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BYTES).ok();
    }
}

fn spawn(receive: impl FnOnce() -> io::Result<()> + Send + 'static) {
    thread::spawn(move || {
        if let Err(error) = receive() {
            eprintln!("receiver: {error}");
        }
    });
}

/// Begins to receive, and returns the address as an output names it.
fn listen(sink: Sink, directory: &Path) -> io::Result<String> {
    let path = directory.join("out.socket");
    Ok(match sink {
        Sink::UnixStream => {
            let listener = UnixListener::bind(&path)?;
            spawn(move || {
                for stream in listener.incoming() {
                    let stream = stream?;
                    let mut frames = Frames::default();
                    spawn(move || read_all(stream, |bytes| frames.piece(bytes)));
                }
                Ok(())
            });
            format!("unixstream://{}", path.display())
        }
        Sink::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let address = listener.local_addr()?;
            spawn(move || {
                for stream in listener.incoming() {
                    let stream = stream?;
                    let mut lines = Lines::default();
                    spawn(move || {
                        read_all(stream, |bytes| lines.piece(bytes))?;
                        lines.end();
                        Ok(())
                    });
                }
                Ok(())
            });
            format!("tcp://{address}")
        }
        Sink::UnixDatagram => {
            let socket = UnixDatagram::bind(&path)?;
            spawn(move || datagrams(|buffer| socket.recv(buffer)));
            format!("unixgram://{}", path.display())
        }
        Sink::Udp => {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            enlarge(&socket);
            let address = socket.local_addr()?;
            spawn(move || datagrams(|buffer| socket.recv(buffer)));
            format!("udp://{address}")
        }
    })
}

/// `SINK DIRECTORY`. Prints its address, then the count for each line of standard input.
pub(crate) fn run(arguments: &[String]) -> io::Result<()> {
    let [sink, directory] = arguments else {
        return Err(io::Error::other("two arguments, please"));
    };
    let address = listen(sink.parse()?, Path::new(directory))?;
    let mut answers = io::stdout().lock();
    writeln!(answers, "{address}")?;
    for question in io::stdin().lock().lines() {
        question?;
        writeln!(answers, "{}", LINES.load(Ordering::Relaxed))?;
    }
    Ok(())
}
