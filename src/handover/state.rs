//! The memory file that says what each descriptor is, and holds what is no descriptor.
//!
//! A head of text, `conntally handover 1 JSON BODY CRC`: the lengths of what follows and
//! its CRC-32 in hexadecimal. Then JSON that names descriptors, and a body in which the bytes
//! of half frames and the lines of outputs lie one behind the other, in the JSON's order.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use foldhash::fast::RandomState;
use memchr::memchr;
use serde::{Deserialize, Serialize};

use super::{Connection, Cut, Events, Legacy, Listener, Output, Past};
use crate::address::FileId;
use crate::config::Format;
use crate::conntrack::Subscription;
use crate::output::spool::Contents;
use crate::report::SentSeries;

/// What the head begins with.
const MAGIC: &str = "conntally handover 1";
/// The longest head.
const MAX_HEAD_BYTES: usize = 128;

/// Why a file tells nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StateError {
    /// No head, or that of another version.
    #[error("it is of another version")]
    Version,
    /// It is not what was written.
    #[error("it is damaged")]
    Damaged,
}

/// Names and lengths.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Told {
    listeners: Vec<ToldListener>,
    outputs: Vec<ToldOutput>,
    events: Option<ToldEvents>,
    #[serde(default)]
    series: SentSeries,
}

#[derive(Debug, Deserialize, Serialize)]
struct ToldEvents {
    socket: String,
    subscription: Subscription,
    protocols: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct ToldListener {
    address: String,
    socket: String,
    file: Option<FileId>,
    #[serde(default)]
    older: Vec<(String, FileId)>,
    connections: Vec<ToldConnection>,
}

#[derive(Debug, Deserialize, Serialize)]
struct ToldConnection {
    socket: String,
    held: usize,
    cut: Cut,
    past: Past,
}

#[derive(Debug, Deserialize, Serialize)]
struct ToldOutput {
    address: String,
    format: Format,
    lines: u64,
    bytes: usize,
}

/// Descriptors by their names.
pub(super) type Named = HashMap<String, OwnedFd, RandomState>;

/// The name of a listener's socket, and of its connections'. Colons would end a name
/// (`sd_pid_notify_with_fds(3)`).
fn listener_name(number: usize) -> String {
    format!("listener-{number}")
}

fn older_name(listener: usize, number: usize) -> String {
    format!("older-{listener}-{number}")
}

fn connection_name(listener: usize, number: usize) -> String {
    format!("connection-{listener}-{number}")
}

/// The name of the socket of the kernel's events.
const EVENTS_NAME: &str = "kernel-events";

/// Each descriptor with its name.
pub(super) fn named(legacy: &Legacy) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
    let events = legacy.events.as_ref();
    let events = events.map(|events| (EVENTS_NAME.to_owned(), events.socket.as_fd()));
    let listeners = legacy.listeners.iter().enumerate();
    let listeners = listeners.flat_map(|(place, listener)| {
        let connections = listener.connections.iter().enumerate();
        let connections = connections.map(move |(number, connection)| {
            (connection_name(place, number), connection.socket.as_fd())
        });
        let older = listener.older.iter().enumerate();
        let older =
            older.map(move |(number, (socket, _))| (older_name(place, number), socket.as_fd()));
        std::iter::once((listener_name(place), listener.socket.as_fd()))
            .chain(older)
            .chain(connections)
    });
    listeners.chain(events)
}

/// Whether this is how we name descriptors.
pub(super) fn is_ours(name: &str) -> bool {
    let begins = |prefix| name.starts_with(prefix);
    name == EVENTS_NAME
        || ["listener-", "older-", "connection-"]
            .into_iter()
            .any(begins)
}

/// The file's bytes.
pub(super) fn encode(legacy: &Legacy) -> Vec<u8> {
    let mut body = Vec::new();
    let mut told = Told::default();
    for (place, listener) in legacy.listeners.iter().enumerate() {
        let connections = listener.connections.iter().enumerate();
        let connections = connections.map(|(number, connection)| {
            body.extend_from_slice(&connection.held);
            ToldConnection {
                socket: connection_name(place, number),
                held: connection.held.len(),
                cut: connection.cut,
                past: connection.past,
            }
        });
        let older = listener.older.iter().enumerate();
        let older = older.map(|(number, &(_, file))| (older_name(place, number), file));
        told.listeners.push(ToldListener {
            address: listener.address.clone(),
            socket: listener_name(place),
            file: listener.file,
            older: older.collect(),
            connections: connections.collect(),
        });
    }
    for output in &legacy.outputs {
        body.extend_from_slice(output.contents.as_bytes());
        told.outputs.push(ToldOutput {
            address: output.address.clone(),
            format: output.format,
            lines: output.contents.lines(),
            bytes: output.contents.as_bytes().len(),
        });
    }
    told.events = legacy.events.as_ref().map(|events| ToldEvents {
        socket: EVENTS_NAME.to_owned(),
        subscription: events.subscription,
        protocols: events.protocols.clone(),
    });
    told.series.clone_from(&legacy.series);
    // Text keys and numbers alone: there is nothing that JSON does not have.
    let mut rest = serde_json::to_vec(&told).unwrap_or_default();
    let length = rest.len();
    rest.append(&mut body);
    let (bytes, crc) = (rest.len() - length, crc32fast::hash(&rest));
    let mut file = Vec::with_capacity(MAX_HEAD_BYTES + rest.len());
    // Writing to a Vec does not fail.
    drop(writeln!(file, "{MAGIC} {length} {bytes} {crc:08x}"));
    file.append(&mut rest);
    file
}

/// What the file tells of these descriptors. Whatever has none is left out.
pub(super) fn decode(file: &[u8], named: &mut Named) -> Result<Legacy, StateError> {
    let (told, mut body) = split(file)?;
    let mut take = |length: usize| {
        let (taken, rest) = body.split_at_checked(length).ok_or(StateError::Damaged)?;
        body = rest;
        Ok(taken)
    };
    let mut legacy = Legacy::default();
    for listener in told.listeners {
        let mut connections = Vec::new();
        for connection in listener.connections {
            let held = take(connection.held)?.to_vec();
            if let Some(socket) = named.remove(&connection.socket) {
                connections.push(Connection {
                    socket,
                    held,
                    cut: connection.cut,
                    past: connection.past,
                });
            }
        }
        let older = listener.older.into_iter();
        let older = older.filter_map(|(name, file)| Some((named.remove(&name)?, file)));
        let older = older.collect();
        if let Some(socket) = named.remove(&listener.socket) {
            legacy.listeners.push(Listener {
                address: listener.address,
                socket,
                file: listener.file,
                older,
                connections,
            });
        }
    }
    for output in told.outputs {
        let contents = Contents::from_bytes(take(output.bytes)?.to_vec(), output.lines);
        legacy.outputs.push(Output {
            address: output.address,
            format: output.format,
            contents: contents.ok_or(StateError::Damaged)?,
        });
    }
    legacy.series = told.series;
    legacy.events = told.events.and_then(|told| {
        Some(Events {
            socket: named.remove(&told.socket)?,
            subscription: told.subscription,
            protocols: told.protocols,
        })
    });
    Ok(legacy)
}

fn split(file: &[u8]) -> Result<(Told, &[u8]), StateError> {
    let head = file.get(..file.len().min(MAX_HEAD_BYTES));
    let end = head.and_then(|head| memchr(b'\n', head));
    let (head, rest) = end
        .and_then(|end| file.split_at_checked(end))
        .ok_or(StateError::Version)?;
    let rest = rest.get(1..).unwrap_or_default();
    let head = str::from_utf8(head).map_err(|_| StateError::Version)?;
    let fields = head.strip_prefix(MAGIC).ok_or(StateError::Version)?;
    let mut fields = fields.split_ascii_whitespace();
    let mut field = || fields.next().ok_or(StateError::Damaged);
    let (json, body, crc) = (field()?, field()?, field()?);
    let length = |text: &str| text.parse::<usize>().map_err(|_| StateError::Damaged);
    let (json, body) = (length(json)?, length(body)?);
    let crc = u32::from_str_radix(crc, 16).map_err(|_| StateError::Damaged)?;
    if json.checked_add(body) != Some(rest.len()) || crc32fast::hash(rest) != crc {
        return Err(StateError::Damaged);
    }
    let (json, body) = rest.split_at_checked(json).ok_or(StateError::Damaged)?;
    let told = serde_json::from_slice(json).map_err(|_| StateError::Damaged)?;
    Ok((told, body))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::config::{Framing, LineSource};
    use crate::output::spool::Kind;

    fn fd() -> OwnedFd {
        UnixStream::pair().unwrap().0.into()
    }

    fn legacy() -> Legacy {
        let mut contents = Contents::default();
        contents.add(Kind::Raw(LineSource::Listeners), b"a:1|c\nb:2|g\n");
        let connection = |held: &[u8]| Connection {
            socket: fd(),
            held: held.to_vec(),
            cut: Cut {
                framing: Framing::Length,
                skip: held.len(),
            },
            past: Past {
                since: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
                frames: 1,
                lines: 2,
                bytes: 3,
                bad_lines: 4,
            },
        };
        let listener = |address: &str, connections| Listener {
            address: address.to_owned(),
            socket: fd(),
            file: None,
            older: vec![(fd(), FileId::of(Path::new("/")).unwrap())],
            connections,
        };
        Legacy {
            listeners: vec![
                listener(
                    "unixstream:///a",
                    vec![connection(b"\x05\0\0\0a:"), connection(b"")],
                ),
                listener("udp://127.0.0.1:1", vec![]),
            ],
            outputs: vec![Output {
                address: "udp://127.0.0.1:2".to_owned(),
                format: Format::Influx,
                contents,
            }],
            events: Some(Events {
                socket: fd(),
                subscription: Subscription::Full,
                protocols: "tcp".to_owned(),
            }),
            series: SentSeries::default(),
        }
    }

    fn descriptors(legacy: &Legacy) -> Named {
        let named = named(legacy).map(|(name, fd)| (name, fd.try_clone_to_owned().unwrap()));
        named.collect()
    }

    #[test]
    fn what_is_left_is_found_as_it_was() {
        let left = legacy();
        assert_eq!((left.descriptors(), left.lines()), (7, 2));
        let mut named = descriptors(&left);
        assert_eq!(named.len(), 7);
        let found = decode(&encode(&left), &mut named).unwrap();
        assert!(named.is_empty());
        assert_eq!(found.outputs, left.outputs);
        let events = found.events.unwrap();
        assert_eq!(
            (events.subscription, &*events.protocols),
            (Subscription::Full, "tcp")
        );
        assert_eq!(found.listeners.len(), 2);
        for (found, left) in found.listeners.iter().zip(&left.listeners) {
            assert_eq!(found.address, left.address);
            assert_eq!(found.older[0].1, left.older[0].1);
            assert_eq!(found.connections.len(), left.connections.len());
            for (found, left) in found.connections.iter().zip(&left.connections) {
                assert_eq!(found.held, left.held);
                assert_eq!((found.cut, found.past), (left.cut, left.past));
            }
        }
    }

    #[test]
    fn a_connection_without_its_descriptor_is_left_out_and_the_others_keep_their_bytes() {
        let left = legacy();
        let mut named = descriptors(&left);
        named.remove("connection-0-1");
        named.remove("listener-1");
        let found = decode(&encode(&left), &mut named).unwrap();
        assert_eq!(found.listeners.len(), 1);
        assert_eq!(found.listeners[0].connections[0].held, b"\x05\0\0\0a:");
        assert_eq!(found.outputs, left.outputs);
    }

    #[test]
    fn damage_and_other_versions_are_found_out() {
        let file = encode(&legacy());
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            // A hexadecimal digit has two cases, and blanks are all the same.
            if let Ok(found) = decode(&damaged, &mut Named::default()) {
                assert_eq!(found.outputs, legacy().outputs);
            }
            assert!(decode(&file[..at], &mut Named::default()).is_err());
        }
        let other = decode(b"conntally handover 2 1\n", &mut Named::default());
        assert_eq!(other.unwrap_err(), StateError::Version);
    }
}
