//! The open connections of the listeners as lines of JSON: what the admin socket sends,
//! and what the command reads. One object a line, told apart by `type`; a whole answer
//! has `end` as its last line.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Context;
use super::body::{Gone, Lines, object};
use super::status::unix_millis;
use crate::listen::Client;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ClientsLine {
    /// An open connection.
    Client(ClientLine),
    /// The last line of a whole answer.
    End {
        /// How many there were.
        clients: u64,
    },
    /// Of a daemon that is newer than the command.
    #[serde(other)]
    Unknown,
}

/// An open connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct ClientLine {
    /// The listener's address.
    pub(crate) listener: String,
    /// Counted from the listener's start.
    pub(crate) id: u64,
    /// Process; none where it is in another pid namespace, or with TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<u32>,
    /// User.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<u32>,
    /// Group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gid: Option<u32>,
    /// Name of the program, when it connected.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) program: String,
    /// Address, with TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remote: Option<SocketAddr>,
    /// When it was accepted, milliseconds since the epoch.
    pub(crate) since: u64,
    /// How long ago that is.
    pub(crate) age_seconds: u64,
    /// How long ago the last byte came, to about a second.
    pub(crate) idle_seconds: u64,
    /// Frames, or lines where they are not framed.
    pub(crate) frames: u64,
    /// Lines that passed the check.
    pub(crate) lines: u64,
    /// Bytes read.
    pub(crate) bytes: u64,
    /// Lines that did not pass.
    pub(crate) bad_lines: u64,
}

impl ClientLine {
    fn new(listener: &str, client: Client) -> Self {
        let age = SystemTime::now().duration_since(client.since);
        Self {
            listener: listener.to_owned(),
            id: client.id,
            pid: client.peer.pid,
            uid: client.peer.uid,
            gid: client.peer.gid,
            program: client.peer.program.into(),
            remote: client.peer.remote,
            since: unix_millis(client.since),
            // The clock may have been set back.
            age_seconds: age.unwrap_or_default().as_secs(),
            idle_seconds: client.idle.as_secs(),
            frames: client.frames,
            lines: client.lines,
            bytes: client.bytes,
            bad_lines: client.bad_lines,
        }
    }
}

/// Sends them, the oldest of each listener first. Each is looked at when its turn comes,
/// so that a slow reader holds nothing but their numbers.
pub(super) async fn clients(context: Arc<Context>, mut lines: Lines) -> Result<(), Gone> {
    let listeners = context.telemetry.listeners.iter();
    let mut clients = 0;
    for ((listener, _), tracker) in listeners.zip(&context.views.trackers) {
        for id in tracker.ids() {
            let Some(client) = tracker.client(id) else {
                continue;
            };
            clients += 1;
            let line = ClientsLine::Client(ClientLine::new(listener, client));
            lines.add(|out| object(out, &line)).await?;
        }
    }
    let end = ClientsLine::End { clients };
    lines.add(|out| object(out, &end)).await?;
    lines.finish().await
}
