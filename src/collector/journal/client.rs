//! One who asks: its name, its position, and what it does not want to see.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::flow::key::FlowKey;

/// The longest name.
const MAX_BYTES: usize = 64;

/// What a client calls itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Arc<str>);

/// A text that no client may have as its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "client: {0:?} cannot be a client's name: write 1 to {MAX_BYTES} letters, digits, dots, _ \
     and -"
)]
pub struct ClientIdError(String);

impl ClientId {
    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientId {
    type Err = ClientIdError;

    fn from_str(text: &str) -> Result<Self, ClientIdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(ClientIdError(text.chars().take(2 * MAX_BYTES).collect()))
        }
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a client stands.
#[derive(Debug)]
pub(super) struct Client {
    /// The first position after it came.
    pub(super) joined: u64,
    /// The first position that it has not had.
    pub(super) next: u64,
    /// When it asked last for what ended.
    pub(super) asked: Option<Instant>,
    /// When it was heard of last.
    pub(super) seen: Instant,
    /// Ends that it lost since.
    pub(super) dropped: u64,
    /// Connections that it does not want to see, until they end.
    pub(super) hidden: HashSet<FlowKey>,
    /// Positions that are not for it: hidden, or told before.
    pub(super) skips: BTreeSet<u64>,
}

impl Client {
    pub(super) fn new(position: u64, now: Instant) -> Self {
        Self {
            joined: position,
            next: position,
            asked: None,
            seen: now,
            dropped: 0,
            hidden: HashSet::new(),
            skips: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_name_can_stand_in_a_path_and_a_query_as_it_is() {
        for text in ["a", "net-watch.1", "A_b"] {
            assert_eq!(text.parse::<ClientId>().unwrap().as_str(), text);
        }
        let long = "x".repeat(MAX_BYTES + 1);
        for text in ["", "a b", "a/b", "é", "a&b", &long] {
            let error = text.parse::<ClientId>().unwrap_err().to_string();
            assert!(error.contains("letters, digits"), "{error}");
        }
    }
}
