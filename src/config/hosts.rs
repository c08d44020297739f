//! `[hosts]`: what a connection's remote host is, and how many are told apart.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What becomes of clients from public addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PublicInbound {
    /// They count together as `remote_host:public`.
    Fold,
    /// Each is a remote host of its own.
    Apart,
}

/// Which address names the remote host of a translated connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NatView {
    /// As it was dialled.
    Original,
    /// The real other end.
    Translated,
}

/// Where names of remote hosts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Names {
    /// Addresses stay addresses.
    None,
    /// The system's resolver.
    System,
    /// DNS answers seen on the wire.
    Dns,
}

/// `[hosts]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hosts {
    /// Remote hosts reported apart; the rest is `remote_host:other`. Defaults to 100.
    pub max: usize,
    /// Defaults to fold.
    pub public_inbound: PublicInbound,
    /// Networks that are this host's too.
    pub local: Vec<IpNet>,
    /// Defaults to none.
    pub names: Names,
    /// Defaults to original.
    pub nat: NatView,
    /// Whether connections of the host with itself count. Defaults to false.
    pub loopback: bool,
    /// Whether the service port is a tag. Defaults to false.
    pub ports: bool,
    /// Networks whose connections do not count.
    pub ignore: Vec<IpNet>,
    /// Network to name: counted as one host, the longest prefix first.
    pub groups: BTreeMap<IpNet, String>,
    /// Address to name.
    pub aliases: BTreeMap<IpAddr, String>,
}

impl Default for Hosts {
    fn default() -> Self {
        Self {
            max: 100,
            public_inbound: PublicInbound::Fold,
            local: Vec::new(),
            names: Names::None,
            nat: NatView::Original,
            loopback: false,
            ports: false,
            ignore: Vec::new(),
            groups: BTreeMap::new(),
            aliases: BTreeMap::new(),
        }
    }
}
