//! What a listener's keys may say.

use std::collections::BTreeSet;

use super::{Mistakes, check_rate};
use crate::address::Address;
use crate::config::{Config, Interval, Listener, OriginChoice};
use crate::forward::{check_key, check_rename};

const MIN_FRAME: u64 = 64;
/// A length prefix is told from text by its high byte, which is zero below this.
const MAX_FRAME: u64 = (1 << 24) - 1;

impl Config {
    pub(super) fn check_listeners(&self, found: &mut Mistakes) {
        let mut seen = BTreeSet::new();
        for (index, listener) in self.listeners.iter().enumerate() {
            let key = format!("listener[{index}]");
            check_listener(&key, listener, found);
            check_lines(&key, listener, found);
            if !seen.insert(listener.address.to_string()) {
                found.add(
                    format!("{key}.address"),
                    format!("{} is listened on already", listener.address),
                );
            }
        }
    }

    /// Notes keys that have no effect: whether it is so, the key, and what to say.
    pub(super) fn note_listeners(&self, note: &mut impl FnMut(bool, &str, &str)) {
        let usual = Listener::default();
        for (index, listener) in self.listeners.iter().enumerate() {
            note(
                listener.receive_buffer != usual.receive_buffer
                    && !matches!(listener.address, Address::Udp(_)),
                &format!("listener[{index}].receive_buffer"),
                "has no effect: but for udp:// senders wait where there is no room",
            );
            note(
                listener.origin == OriginChoice::Tags && listener.address.path().is_none(),
                &format!("listener[{index}].origin"),
                "has no effect: only unix sockets tell who sends",
            );
            note(
                listener.rate != usual.rate && !has_connections(listener),
                &format!("listener[{index}].rate"),
                "has no effect with datagrams, which have no connection",
            );
        }
    }
}

/// Whether it is one of streams.
const fn has_connections(listener: &Listener) -> bool {
    matches!(listener.address, Address::UnixStream(_) | Address::Tcp(_))
}

fn check_listener(key: &str, listener: &Listener, found: &mut Mistakes) {
    let what = match listener.address {
        Address::Stdout => Some("nothing comes in by stdout:"),
        Address::Unix(_) => Some("a listener cannot find out what its clients speak:"),
        _ => None,
    };
    if let Some(what) = what {
        found.add(
            format!("{key}.address"),
            format!("{what} write unixstream:///path, unixgram:///path, udp:// or tcp://"),
        );
    }
    if !listener.allow_uids.is_empty() && listener.address.path().is_none() {
        found.add(
            format!("{key}.allow_uids"),
            "works with unixstream:// and unixgram:// alone, which tell who sends",
        );
    }
    check_rate(key, listener.rate, found);
    if listener.max_connections == 0 {
        found.add(format!("{key}.max_connections"), "must be at least 1");
    }
    if !(MIN_FRAME..=MAX_FRAME).contains(&listener.max_frame.0) {
        found.add(
            format!("{key}.max_frame"),
            format!("must be from {MIN_FRAME} to {MAX_FRAME} bytes"),
        );
    }
    if listener.read_timeout == Interval::from_secs(0) {
        found.add(format!("{key}.read_timeout"), "must be more than 0");
    }
    found.tags(&format!("{key}.tags"), &listener.tags);
}

/// What its lines go through.
fn check_lines(key: &str, listener: &Listener, found: &mut Mistakes) {
    for (name, globs) in [("allow", &listener.allow), ("deny", &listener.deny)] {
        for (index, glob) in globs.iter().enumerate() {
            if glob.is_empty() {
                found.add(
                    format!("{key}.{name}[{index}]"),
                    "an empty glob matches no name: leave it out, or write \"*\" for all",
                );
            }
        }
    }
    for (index, dropped) in listener.drop_tags.iter().enumerate() {
        if let Err(error) = check_key(dropped) {
            found.add(format!("{key}.drop_tags[{index}]"), error.to_string());
        }
    }
    for (from, to) in &listener.rename {
        if let Err(error) = check_rename(from, to) {
            found.add(format!("{key}.rename"), error.to_string());
        }
    }
}
