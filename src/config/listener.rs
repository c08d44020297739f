//! `[[listener]]`: where lines come from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ByteRate, ByteSize, FileMode, Interval, Owner};
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
