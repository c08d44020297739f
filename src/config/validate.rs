//! What only several keys together, or a value's bounds, can show to be wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

mod admin;
mod groups;
mod listener;

use super::{ByteRate, Config, Format, LineSource, Names, OnFull, Output, SourceChoice};
use crate::address::{Address, reaches};
use crate::report::text::check_tag;

/// A key whose value cannot be run with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The key, as in `output[1].queue`.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// The longest UDP payload over IPv4: 65535 less the headers of IP and UDP.
const MAX_UDP_PAYLOAD: u64 = 65_507;
const MIN_PAYLOAD: u64 = 128;
const MAX_PAYLOAD: u64 = 1 << 20;
/// A read takes up to this much room in the queue at once.
const MIN_QUEUE: u64 = 64 << 10;

/// Where a payload of the largest size still goes every quarter of an hour.
const MIN_RATE: u64 = 1 << 10;
/// More than what writes to one socket come to.
const MAX_RATE: u64 = 1 << 30;

/// What is noted of keys that are there for later.
const NOTHING: &str = "has no effect in this version";

struct Mistakes(Vec<Mistake>);

impl Mistakes {
    fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(Mistake {
            key: key.into(),
            message: message.into(),
        });
    }

    fn tags(&mut self, key: &str, tags: &[String]) {
        for tag in tags {
            if let Err(error) = check_tag(tag) {
                self.add(key, error.to_string());
            }
        }
    }
}

impl Config {
    /// Every mistake that the types let through.
    #[must_use]
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut found = Mistakes(Vec::new());
        if self.interval.0 < MIN_INTERVAL {
            found.add("interval", "must be at least 100ms");
        }
        found.tags("tags", &self.tags);
        if self.user.user.is_empty() && !self.user.group.is_empty() {
            found.add(
                "user",
                format!("\"{}\" names no user: write \"user:group\"", self.user),
            );
        }
        self.check_collector(&mut found);
        self.check_hosts(&mut found);
        let prefix = &self.report.prefix;
        if !prefix
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
            || !prefix.starts_with(|first: char| first.is_ascii_alphabetic())
        {
            found.add(
                "report.prefix",
                format!("{prefix:?}: begin with a letter; letters, digits, dots, _ and - only"),
            );
        }
        for (index, output) in self.outputs.iter().enumerate() {
            self.check_output(&format!("output[{index}]"), output, &mut found);
        }
        self.check_groups(&mut found);
        self.check_listeners(&mut found);
        self.check_spools(&mut found);
        self.check_admin(&mut found);
        let memory = &self.memory;
        if !(memory.low > 0.0 && memory.low <= memory.high && memory.high <= 1.0) {
            found.add("memory.low", "0 < low <= high <= 1 must hold");
        }
        found.0
    }

    /// Each needs a file of its own.
    fn check_spools(&self, found: &mut Mistakes) {
        let spools = self.outputs.iter().map(|output| Path::new(&output.spool));
        for (index, spool) in spools.clone().enumerate() {
            let mut before = spools.clone().take(index);
            if !spool.as_os_str().is_empty() && before.any(|other| same_file(other, spool)) {
                found.add(
                    format!("output[{index}].spool"),
                    format!("{} is another output's already", spool.display()),
                );
            }
        }
    }

    fn check_collector(&self, found: &mut Mistakes) {
        if self.collector.protocols.is_empty() {
            found.add(
                "collector.protocols",
                "names no protocol: leave it out for [\"tcp\"]",
            );
        }
        if self.collector.families.is_empty() {
            found.add(
                "collector.families",
                "names no family: leave it out for both",
            );
        }
        let mut tags = BTreeMap::new();
        for (index, netns) in self.collector.netns.iter().enumerate() {
            if let Some(other) = tags.insert(netns.tag(), netns) {
                let message = if netns == other {
                    format!("{netns} is named twice")
                } else {
                    format!(
                        "{netns} would be tagged netns:{} as {other} is: mount one of them under \
                         another name (ip netns attach NAME PID)",
                        netns.tag()
                    )
                };
                found.add(format!("collector.netns[{index}]"), message);
            }
        }
    }

    fn check_hosts(&self, found: &mut Mistakes) {
        if self.hosts.max == 0 {
            found.add("hosts.max", "must be at least 1");
        }
        let names = (self
            .hosts
            .groups
            .iter()
            .map(|(at, name)| ("groups", at.to_string(), name)))
        .chain(
            self.hosts
                .aliases
                .iter()
                .map(|(at, name)| ("aliases", at.to_string(), name)),
        );
        for (table, at, name) in names {
            if name.is_empty()
                || name.contains(['|', ',', '#'])
                || name.chars().any(char::is_control)
            {
                found.add(
                    format!("hosts.{table}"),
                    format!("the name {name:?} of {at} cannot be a tag: not empty, no | , # or line break"),
                );
            } else if name == "other" || name == "public" {
                found.add(
                    format!("hosts.{table}"),
                    format!("the name {name:?} of {at} is taken: it is the name of what is folded"),
                );
            }
        }
    }

    fn check_output(&self, key: &str, output: &Output, found: &mut Mistakes) {
        let payload = output.payload_limit() as u64;
        let most = match output.address {
            Address::Udp(_) => MAX_UDP_PAYLOAD,
            _ => MAX_PAYLOAD,
        };
        if !(MIN_PAYLOAD..=most).contains(&payload) {
            found.add(
                format!("{key}.max_payload"),
                format!(
                    "must be from {MIN_PAYLOAD} to {most} bytes for {}",
                    output.address
                ),
            );
        }
        check_rate(key, output.rate, found);
        check_burst(key, output, found);
        let least = MIN_QUEUE.max(2 * payload);
        if output.queue.0 < least {
            found.add(
                format!("{key}.queue"),
                format!("must be at least {least} bytes, to hold what one read brings"),
            );
        }
        check_merging(key, output, found);
        if output.sources.is_empty() {
            found.add(
                format!("{key}.sources"),
                "names no source: leave it out for both",
            );
        }
        for (index, glob) in output.only.iter().enumerate() {
            if glob.is_empty() {
                found.add(
                    format!("{key}.only[{index}]"),
                    "an empty glob matches no name: leave it out, or write \"*\" for all",
                );
            }
        }
        let address = format!("{key}.address");
        if let Address::Udp(end) | Address::Tcp(end) = &output.address
            && end.port == 0
        {
            found.add(&address, "port 0 is no port to send to");
        }
        for listener in &self.listeners {
            let same = match (output.address.path(), listener.address.path()) {
                (Some(one), Some(other)) => same_file(one, other),
                _ => same_port(&output.address, &listener.address),
            };
            if same {
                found.add(
                    &address,
                    format!(
                        "{} is one of conntally's own listeners: what it sent would come back for ever",
                        output.address
                    ),
                );
            }
        }
    }

    /// Keys that are set to what this version does not do, and what it does instead.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let mut note = |differs: bool, key: &str, effect: &str| {
            if differs {
                notes.push(format!("{key} {effect}"));
            }
        };
        note(
            self.collector.source == SourceChoice::Off && !self.collector.netns.is_empty(),
            "collector.netns",
            "has no effect with source = \"off\"",
        );
        note(self.hosts.names != Names::None, "hosts.names", NOTHING);
        let usual = Output::default();
        for (index, output) in self.outputs.iter().enumerate() {
            let at = |key: &str| format!("output[{index}].{key}");
            note(
                output.burst != usual.burst && output.rate == usual.rate,
                &at("burst"),
                "has no effect without a rate",
            );
            note(
                !output.spread && !output.takes(LineSource::Collector),
                &at("spread"),
                "has no effect without \"collector\" in sources",
            );
            note(
                output.group.is_empty() && output.group_mode != usual.group_mode,
                &at("group_mode"),
                "has no effect without a group",
            );
        }
        for members in self.output_groups() {
            if let [place] = *members
                && let Some(output) = self.outputs.get(place)
            {
                note(
                    !output.group.is_empty(),
                    &format!("output[{place}].group"),
                    "has no effect: no other output is in that group",
                );
            }
        }
        self.note_listeners(&mut note);
        notes
    }
}

fn check_rate(key: &str, rate: ByteRate, found: &mut Mistakes) {
    if rate
        .0
        .is_some_and(|rate| !(MIN_RATE..=MAX_RATE).contains(&rate.0))
    {
        found.add(
            format!("{key}.rate"),
            "must be from 1KiB/s to 1GiB/s, or \"\" for no limit",
        );
    }
}

fn check_burst(key: &str, output: &Output, found: &mut Mistakes) {
    if output.rate.0.is_none() {
        return;
    }
    let (payload, burst) = (output.payload_limit() as u64, output.burst_bytes());
    if !(payload..=MAX_RATE).contains(&burst) && output.burst.0.is_some() {
        found.add(
            format!("{key}.burst"),
            format!(
                "must be at least {payload} bytes, which is max_payload, and at most 1GiB; \
                 or \"\" for what the rate lets go in a second"
            ),
        );
    }
}

/// What only an output that merges can do.
fn check_merging(key: &str, output: &Output, found: &mut Mistakes) {
    if output.backfill && output.format != Format::Dogstatsd {
        found.add(
            format!("{key}.backfill"),
            "needs format = \"dogstatsd\": no other has timestamps",
        );
    }
    if let Some(interval) = output.aggregate.0
        && interval.0 < MIN_INTERVAL
    {
        found.add(format!("{key}.aggregate"), "must be at least 100ms");
    }
    if output.backlog_contexts == 0 {
        found.add(format!("{key}.backlog_contexts"), "must be at least 1");
    }
    for (is_set, name) in [
        (output.backfill, "backfill"),
        (output.aggregate.0.is_some(), "aggregate"),
        (!output.spool.is_empty(), "spool"),
    ] {
        if is_set && output.on_full != OnFull::Merge {
            found.add(format!("{key}.{name}"), "needs on_full = \"merge\"");
        }
    }
    if !output.spool.is_empty() && !Path::new(&output.spool).is_absolute() {
        found.add(
            format!("{key}.spool"),
            format!(
                "{:?} must begin at the root: \"/var/lib/conntally/spool\"",
                output.spool
            ),
        );
    }
}

/// Whether both paths lead to the same file, through whatever links.
fn same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| {
        let directory = path.parent()?.canonicalize().ok()?;
        Some(directory.join(path.file_name()?))
    };
    one == other || real(one).is_some_and(|one| Some(one) == real(other))
}

/// Whether both are the same port of this host.
fn same_port(output: &Address, listener: &Address) -> bool {
    let ((Address::Udp(sends), Address::Udp(listens))
    | (Address::Tcp(sends), Address::Tcp(listens))) = (output, listener)
    else {
        return false;
    };
    match (address_of(&sends.host), address_of(&listens.host)) {
        (Some(to), Some(bound)) => reaches(
            SocketAddr::new(to, sends.port),
            SocketAddr::new(bound, listens.port),
        ),
        _ => sends == listens,
    }
}

/// The address that a host is for sure, without asking a resolver.
fn address_of(host: &str) -> Option<IpAddr> {
    match host {
        "localhost" | "ip4-localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        "ip6-localhost" | "ip6-loopback" => Some(Ipv6Addr::LOCALHOST.into()),
        _ => host.parse().ok(),
    }
}
