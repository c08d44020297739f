//! The sending side: tagged lines framed and written beforehand.

use std::io::{self, Write};
use std::net::UdpSocket;
use std::num::NonZeroU64;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::workload::{Frames, Source, Writes};

/// Lines before they repeat.
const CORPUS_LINES: usize = 20_000;
/// Names and tags before they repeat.
const CONTEXTS: usize = 1_000;
/// The Agent's `dogstatsd_buffer_size`, and what its clients fill.
const FRAME_BYTES: usize = 8_192;
/// What its clients fill over UDP.
const DATAGRAM_BYTES: usize = 1_432;
const BATCH_BYTES: usize = 64 << 10;

/// Bytes that go out in one write, and the lines in them.
struct Chunk {
    bytes: Vec<u8>,
    lines: u64,
}

/// A mix of types as busy services send it, about 120 bytes a line.
fn line(number: usize) -> String {
    let context = number % CONTEXTS;
    let value = number.wrapping_mul(2_654_435_761) % 10_000;
    let (value, kind) = match number % 20 {
        0..=10 => (format!("{}", value % 100), "c"),
        11..=13 => (format!("{value}.5"), "g"),
        14 | 15 => (format!("{}.25", value % 500), "h"),
        16 | 17 => (format!("{}", value % 2_000), "ms"),
        18 => (format!("{}.75", value % 500), "d"),
        _ => (format!("user-{value}"), "s"),
    };
    format!(
        "shop.requests.handled.{:03}:{value}|{kind}|#env:prod,service:checkout,version:1.4.2,\
         region:eu-west-1,endpoint:/v1/item/{:02},status:200\n",
        context % 100,
        context / 10,
    )
}

/// Puts a payload behind its length, or, as a datagram, alone.
fn frame(payload: &[u8], source: Source, into: &mut Vec<u8>) -> io::Result<()> {
    if source != Source::UnixStream {
        into.extend_from_slice(payload);
        return Ok(());
    }
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(payload);
    Ok(())
}

/// The whole corpus, cut into what single writes take.
fn chunks(source: Source, frames: Frames, writes: Writes) -> io::Result<Vec<Chunk>> {
    let most = match frames {
        Frames::Packed => FRAME_BYTES,
        Frames::Datagram => DATAGRAM_BYTES,
        Frames::Single => 0,
    };
    let mut payloads = Vec::new();
    for number in 0..CORPUS_LINES {
        let line = line(number).into_bytes();
        match payloads.last_mut() {
            Some(Chunk { bytes, lines }) if bytes.len() + line.len() <= most => {
                bytes.extend_from_slice(&line);
                *lines += 1;
            }
            _ => payloads.push(Chunk {
                bytes: line,
                lines: 1,
            }),
        }
    }
    let mut chunks: Vec<Chunk> = Vec::new();
    for payload in payloads {
        match chunks.last_mut() {
            Some(chunk)
                if writes == Writes::Batch
                    && chunk.bytes.len() + payload.bytes.len() + 4 <= BATCH_BYTES =>
            {
                frame(&payload.bytes, source, &mut chunk.bytes)?;
                chunk.lines += payload.lines;
            }
            _ => {
                let mut bytes = Vec::new();
                frame(&payload.bytes, source, &mut bytes)?;
                chunks.push(Chunk {
                    bytes,
                    lines: payload.lines,
                });
            }
        }
    }
    Ok(chunks)
}

/// What goes to a relay.
enum Target {
    Stream(UnixStream),
    UnixDatagram(UnixDatagram),
    Udp(UdpSocket),
}

impl Target {
    fn connect(source: Source, listener: &str) -> io::Result<Self> {
        Ok(match source {
            Source::UnixStream => Self::Stream(UnixStream::connect(listener)?),
            Source::UnixDatagram => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(listener)?;
                Self::UnixDatagram(socket)
            }
            Source::Udp => {
                let socket = UdpSocket::bind("127.0.0.1:0")?;
                socket.connect(listener)?;
                Self::Udp(socket)
            }
        })
    }

    fn send(&mut self, chunk: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.write_all(chunk),
            Self::UnixDatagram(socket) => socket.send(chunk).map(drop),
            Self::Udp(socket) => socket.send(chunk).map(drop),
        }
    }
}

/// Holds a sender to so many lines a second.
struct Pace {
    started: Instant,
    per_second: u64,
}

impl Pace {
    /// The default slack of 50 µs would make bursts of the lines that fall due meanwhile.
    fn new(per_second: u64) -> io::Result<Self> {
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1_000))?;
        Ok(Self {
            started: Instant::now(),
            per_second,
        })
    }

    fn wait(&self, sent: u64) {
        let due = Duration::from_secs(sent) / u32::try_from(self.per_second).unwrap_or(u32::MAX);
        let early = due.saturating_sub(self.started.elapsed());
        if !early.is_zero() {
            thread::sleep(early);
        }
    }
}

/// `SOURCE LISTENER CONNECTIONS FRAMES WRITES PER_SECOND MESSAGES`; a rate of 0 is no limit.
/// Prints a line when it has connected, waits for one on standard input, sends round robin
/// until the messages are out, and prints how many they were.
pub(crate) fn run(arguments: &[String]) -> io::Result<()> {
    let [
        source,
        listener,
        connections,
        frames,
        writes,
        per_second,
        messages,
    ] = arguments
    else {
        return Err(io::Error::other("seven arguments, please"));
    };
    let source = source.parse()?;
    let messages: u64 = messages.parse().map_err(io::Error::other)?;
    let per_second: u64 = per_second.parse().map_err(io::Error::other)?;
    let connections: usize = connections.parse().map_err(io::Error::other)?;
    let chunks = chunks(source, frames.parse()?, writes.parse()?)?;
    let mut targets = (0..connections)
        .map(|_| Target::connect(source, listener))
        .collect::<io::Result<Vec<_>>>()?;
    println!("ready");
    io::stdin().read_line(&mut String::new())?;
    let pace = (per_second > 0)
        .then(|| Pace::new(per_second))
        .transpose()?;

    let mut sent = 0;
    let mut turn = 0;
    'sending: loop {
        for chunk in &chunks {
            if sent >= messages {
                break 'sending;
            }
            if let Some(pace) = &pace {
                pace.wait(sent);
            }
            targets[turn].send(&chunk.bytes)?;
            turn = (turn + 1) % targets.len();
            sent += chunk.lines;
        }
    }
    println!("{sent}");
    Ok(())
}
