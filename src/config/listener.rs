//! `[[listener]]`: where lines come from.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ByteRate, ByteSize, FileMode, Interval, Owner, UnitError};
use crate::address::Address;

/// How a stream is cut into frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Framing {
    /// Told from its first bytes.
    Auto,
    /// A little-endian `u32` before each.
    Length,
    /// Lines.
    Newline,
}

/// What is added to a line about its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OriginChoice {
    /// Nothing.
    None,
    /// The container id as `c:`, where a line has none.
    Field,
    /// `container_id` and `pod_uid` as tags, where a line has neither.
    Tags,
}

/// What may wait in a socket, or what the system lets wait: `"4MiB"`, `""`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReceiveBuffer(pub Option<ByteSize>);

impl FromStr for ReceiveBuffer {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        match text.parse::<ByteSize>() {
            Ok(size) if size.0 > 0 => Ok(Self(Some(size))),
            _ => Err(UnitError::Buffer(text.to_owned())),
        }
    }
}

impl fmt::Display for ReceiveBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(size) => size.fmt(f),
            None => Ok(()),
        }
    }
}

/// `[[listener]]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listener {
    /// Where. Defaults to `unixstream:///run/conntally/dsd_stream.socket`.
    pub address: Address,
    /// Permission bits of the socket file. Defaults to 0722.
    pub mode: FileMode,
    /// Of the socket file; empty means the process's.
    pub owner: Owner,
    /// Most connections at once. Defaults to 1024.
    pub max_connections: usize,
    /// Defaults to auto.
    pub framing: Framing,
    /// Longest frame or datagram. Defaults to 8 KiB.
    pub max_frame: ByteSize,
    /// After so long without a byte a connection is closed; 0 means never.
    pub idle_timeout: Interval,
    /// A frame begun must end within this.
    pub read_timeout: Interval,
    /// Bytes per second and connection.
    pub rate: ByteRate,
    /// Of a UDP socket; empty means the system's default.
    pub receive_buffer: ReceiveBuffer,
    /// Defaults to field.
    pub origin: OriginChoice,
    /// Tags added to every line.
    pub tags: Vec<String>,
    /// Users who may send; empty means whoever the file mode lets in.
    pub allow_uids: Vec<u32>,
    /// Globs of the names (of events: titles) that pass; empty means all.
    pub allow: Vec<String>,
    /// Globs of the names that do not, whatever `allow` says.
    pub deny: Vec<String>,
    /// Globs of the keys of tags that are taken off every line.
    pub drop_tags: Vec<String>,
    /// Prefixes of names, and what stands in their place; the longest counts.
    pub rename: BTreeMap<String, String>,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            address: Address::UnixStream("/run/conntally/dsd_stream.socket".into()),
            mode: FileMode(0o722),
            owner: Owner::default(),
            max_connections: 1024,
            framing: Framing::Auto,
            max_frame: ByteSize::kib(8),
            idle_timeout: Interval::from_secs(0),
            read_timeout: Interval::from_secs(10),
            rate: ByteRate::default(),
            receive_buffer: ReceiveBuffer::default(),
            origin: OriginChoice::Field,
            tags: Vec::new(),
            allow_uids: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            drop_tags: Vec::new(),
            rename: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_prints_back_in_a_form_that_reads_the_same() {
        for text in ["", "4MiB"] {
            assert_eq!(text.parse::<ReceiveBuffer>().unwrap().to_string(), text);
        }
        for text in ["4", "0B", "big"] {
            let error = text.parse::<ReceiveBuffer>().unwrap_err().to_string();
            assert!(error.contains("\"4MiB\""), "{error}");
        }
    }
}
