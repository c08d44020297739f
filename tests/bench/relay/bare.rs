//! The least that a relay can do: whole frames are copied, unread, from unix
//! streams (or datagrams, see there) to one output.
//!
//! One thread, one epoll, one read for each readiness, one blocking write for each
//! read (one for each frame where the output takes datagrams).

mod datagrams;

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use rustix::event::epoll;

use crate::workload::Source;

/// Room for a read, and so the most that a write takes.
const BUFFER_BYTES: usize = 64 << 10;
/// What marks the listening socket among the connections.
const LISTENER: u64 = u64::MAX;

enum Output {
    Frames(UnixStream),
    Lines(TcpStream, Vec<u8>),
    UnixDatagram(UnixDatagram),
    Udp(UdpSocket),
}

impl Output {
    fn connect(address: &str) -> io::Result<Self> {
        let (scheme, rest) = address
            .split_once("://")
            .ok_or_else(|| io::Error::other("no address"))?;
        Ok(match scheme {
            "unixstream" => Self::Frames(UnixStream::connect(rest)?),
            "tcp" => {
                let stream = TcpStream::connect(rest)?;
                stream.set_nodelay(true)?;
                Self::Lines(stream, Vec::with_capacity(BUFFER_BYTES))
            }
            "unixgram" => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(rest)?;
                Self::UnixDatagram(socket)
            }
            _ => {
                let socket = UdpSocket::bind("127.0.0.1:0")?;
                socket.connect(rest)?;
                Self::Udp(socket)
            }
        })
    }

    fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        match self {
            Self::Frames(stream) => stream.write_all(frames),
            Self::Lines(stream, text) => {
                text.clear();
                Payloads(frames).for_each(|payload| text.extend_from_slice(payload));
                stream.write_all(text)
            }
            Self::UnixDatagram(socket) => {
                Payloads(frames).try_for_each(|payload| socket.send(payload).map(drop))
            }
            Self::Udp(socket) => {
                Payloads(frames).try_for_each(|payload| socket.send(payload).map(drop))
            }
        }
    }
}

/// The payloads of whole frames.
struct Payloads<'a>(&'a [u8]);

impl<'a> Iterator for Payloads<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (header, rest) = self.0.split_first_chunk()?;
        let (payload, rest) = rest.split_at_checked(u32::from_le_bytes(*header) as usize)?;
        self.0 = rest;
        Some(payload)
    }
}

struct Connection {
    stream: UnixStream,
    buffer: Box<[u8]>,
    filled: usize,
}

impl Connection {
    /// Passes on what one read brings; whether there may be more.
    fn relay(&mut self, output: &mut Output) -> io::Result<bool> {
        let length = self.stream.read(&mut self.buffer[self.filled..])?;
        self.filled += length;
        let filled = &self.buffer[..self.filled];
        let mut payloads = Payloads(filled);
        payloads.by_ref().for_each(drop);
        let whole = filled.len() - payloads.0.len();
        if whole > 0 {
            output.send(&filled[..whole])?;
            self.buffer.copy_within(whole..self.filled, 0);
            self.filled -= whole;
        }
        Ok(length > 0)
    }
}

/// `SOURCE PLACE ADDRESS READS`. Prints a line when it listens, and runs until it is ended.
pub(crate) fn run(arguments: &[String]) -> io::Result<()> {
    let [source, place, address, reads] = arguments else {
        return Err(io::Error::other("four arguments, please"));
    };
    let mut output = Output::connect(address)?;
    match source.parse()? {
        Source::UnixStream => streams(place, &mut output),
        source => datagrams::relay(source, place, reads.parse()?, &mut output),
    }
}

fn streams(place: &str, output: &mut Output) -> io::Result<()> {
    let listener = UnixListener::bind(place)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let readable = epoll::EventFlags::IN;
    epoll::add(
        &epoll,
        &listener,
        epoll::EventData::new_u64(LISTENER),
        readable,
    )?;
    println!("ready");

    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut room = [MaybeUninit::<epoll::Event>::uninit(); 64];
    loop {
        let (events, _) = epoll::wait(&epoll, &mut room, None)?;
        for event in events {
            let mark = event.data.u64();
            if mark == LISTENER {
                let (stream, _) = listener.accept()?;
                let mark = epoll::EventData::new_u64(connections.len() as u64);
                epoll::add(&epoll, &stream, mark, readable)?;
                connections.push(Some(Connection {
                    stream,
                    buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
                    filled: 0,
                }));
                continue;
            }
            let slot = usize::try_from(mark)
                .ok()
                .and_then(|place| connections.get_mut(place));
            if let Some(slot) = slot
                && let Some(connection) = slot
                && !connection.relay(output)?
            {
                *slot = None;
            }
        }
    }
}
