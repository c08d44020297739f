//! What is shown: the rows, their history, and what keys have made of them. It knows no
//! terminal.

use std::collections::HashMap;

use tokio::time::Instant;

use super::feed::{Look, Seen, Told};
use super::history::History;
use super::rows::{BY_BYTES, BY_TOTAL, CLIENTS, HOSTS, HostRow, OUTPUTS, Stage, StageRow};
use super::sheet::{Column, Order, matches};
use crate::admin::clients::ClientLine;
use crate::admin::snapshot::HostLine;
use crate::admin::status::{DaemonLine, ListenerLine, OutputLine};

/// Hosts that are kept, those with most connections: nobody scrolls through more.
pub(super) const MAX_HOSTS: usize = 10_000;
/// The longest text to look for.
const MAX_FILTER: usize = 64;
/// Rows that a page key passes.
const PAGE: usize = 10;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Hosts,
    Listeners,
    Outputs,
}

impl View {
    pub(super) const ALL: [Self; 3] = [Self::Hosts, Self::Listeners, Self::Outputs];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Hosts => "Hosts",
            Self::Listeners => "Listeners",
            Self::Outputs => "Outputs",
        }
    }

    /// How many columns rows can be ordered by.
    const fn columns(self) -> usize {
        match self {
            // But for the history.
            Self::Hosts => HOSTS.len() - 1,
            Self::Listeners => CLIENTS.len(),
            Self::Outputs => OUTPUTS.len() - 1,
        }
    }
}

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Enter,
    Escape,
    Backspace,
    Tab,
    BackTab,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    /// Ctrl-C.
    Interrupt,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goes {
    On,
    Out,
}

/// Who tells.
#[derive(Debug)]
pub(super) enum Teller {
    /// Nobody yet.
    Unknown,
    /// A daemon.
    Daemon(Option<DaemonLine>),
    /// The kernel, by this source.
    Kernel(&'static str),
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) view: View,
    orders: [Order; View::ALL.len()],
    /// The first row that is shown.
    pub(super) offset: usize,
    /// What rows have to have, in lower case.
    pub(super) filter: String,
    /// Whether the filter is being typed.
    pub(super) typing: bool,
    /// Whether what is shown stays.
    pub(super) paused: bool,
    pub(super) teller: Teller,
    /// Whether the daemon's collector pauses.
    pub(super) collector_paused: bool,
    /// Why there was nothing to take in the last time.
    pub(super) failure: Option<String>,
    /// Why it is the kernel that tells.
    pub(super) remark: Option<String>,
    hosts: HashMap<HostKey, HostRow>,
    /// Hosts beyond [`MAX_HOSTS`].
    pub(super) hosts_left_out: usize,
    listeners: Vec<StageRow<ListenerLine>>,
    outputs: Vec<StageRow<OutputLine>>,
    clients: Vec<ClientLine>,
    tick: Option<u64>,
    last: Option<Instant>,
}

/// What tells one row of hosts from another.
type HostKey = (String, String, String, String, Option<u16>);

fn key(line: &HostLine<'_>) -> HostKey {
    let netns = line.netns.as_deref().unwrap_or_default();
    let [netns, host, direction, protocol] =
        [netns, &line.host, &line.direction, &line.protocol].map(str::to_owned);
    (netns, host, direction, protocol, line.port)
}

impl Model {
    /// Nothing yet; `remark` says why it will be the kernel that tells.
    pub(super) fn new(remark: Option<String>) -> Self {
        Self {
            view: View::Hosts,
            orders: [Order::by(BY_TOTAL), Order::by(BY_BYTES), Order::by(0)],
            offset: 0,
            filter: String::new(),
            typing: false,
            paused: false,
            teller: Teller::Unknown,
            collector_paused: false,
            failure: None,
            remark,
            hosts: HashMap::new(),
            hosts_left_out: 0,
            listeners: Vec::new(),
            outputs: Vec::new(),
            clients: Vec::new(),
            tick: None,
            last: None,
        }
    }

    /// Takes in a look, unless what is shown is to stay.
    pub(super) fn take(&mut self, told: Told) {
        if self.paused {
            return;
        }
        let look = match told {
            Ok(look) => look,
            Err(failure) => {
                self.failure = Some(failure);
                return;
            }
        };
        self.failure = None;
        let seconds = self
            .last
            .map(|last| look.at.duration_since(last).as_secs_f64());
        self.last = Some(look.at);
        let Look { seen, hosts, .. } = look;
        match seen {
            Seen::Kernel(source) => {
                self.teller = Teller::Kernel(source);
                self.take_hosts(hosts, true);
            }
            Seen::Daemon(daemon) => {
                self.teller = Teller::Daemon(daemon.process);
                self.collector_paused = daemon.paused;
                // Between two ticks there is nothing new.
                let is_new = daemon.tick != self.tick;
                self.tick = daemon.tick;
                self.take_hosts(hosts, is_new);
                self.listeners = follow(&mut self.listeners, daemon.listeners, seconds);
                self.outputs = follow(&mut self.outputs, daemon.outputs, seconds);
                self.clients = daemon.clients;
            }
        }
    }

    /// Takes in what hosts there are. A history has a value for each tick; a host that is
    /// gone stays for as long as its history shows anything.
    fn take_hosts(&mut self, mut lines: Vec<HostLine<'static>>, is_new: bool) {
        self.hosts_left_out = lines.len().saturating_sub(MAX_HOSTS);
        if self.hosts_left_out > 0 {
            lines.sort_by_cached_key(|line| std::cmp::Reverse(HostRow::total(line)));
            lines.truncate(MAX_HOSTS);
        }
        for row in self.hosts.values_mut() {
            let line = &mut row.line;
            [line.opening, line.open, line.closing, line.closed] = [0; 4];
        }
        for line in lines {
            match self.hosts.entry(key(&line)) {
                std::collections::hash_map::Entry::Occupied(mut row) => row.get_mut().line = line,
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(HostRow {
                        line,
                        history: History::default(),
                    });
                }
            }
        }
        if is_new {
            self.hosts.retain(|_, row| {
                let total = HostRow::total(&row.line);
                row.history.push(total);
                total > 0 || !row.history.is_flat_zero()
            });
        }
    }

    /// How rows of what is looked at are ordered.
    pub(super) fn order(&self) -> Order {
        self.orders[self.view as usize]
    }

    pub(super) fn hosts(&self) -> Vec<&HostRow> {
        self.chosen(self.hosts.values(), &HOSTS)
    }

    pub(super) fn outputs(&self) -> Vec<&StageRow<OutputLine>> {
        self.chosen(self.outputs.iter(), &OUTPUTS)
    }

    pub(super) fn clients(&self) -> Vec<&ClientLine> {
        self.chosen(self.clients.iter(), &CLIENTS)
    }

    /// In the configuration's order: there are few.
    pub(super) fn listeners(&self) -> Vec<&StageRow<ListenerLine>> {
        self.listeners.iter().collect()
    }

    /// Those that the filter lets through, in order.
    fn chosen<'a, T>(
        &self,
        rows: impl Iterator<Item = &'a T>,
        columns: &[Column<T>],
    ) -> Vec<&'a T> {
        let mut rows: Vec<_> = rows
            .filter(|row| matches(columns, row, &self.filter))
            .collect();
        self.order().sort(columns, &mut rows);
        rows
    }

    /// How many rows a view has, whatever the filter.
    pub(super) fn count(&self, view: View) -> usize {
        match view {
            View::Hosts => self.hosts.len(),
            View::Listeners => self.listeners.len(),
            View::Outputs => self.outputs.len(),
        }
    }

    /// Rows that can be scrolled through.
    fn scrolled(&self) -> usize {
        match self.view {
            View::Hosts => self.hosts().len(),
            View::Listeners => self.clients().len(),
            View::Outputs => self.outputs().len(),
        }
    }

    /// Does what a key asks for.
    pub(super) fn press(&mut self, key: Key) -> Goes {
        if key == Key::Interrupt {
            return Goes::Out;
        }
        if self.typing {
            self.type_filter(key);
            return Goes::On;
        }
        match key {
            Key::Char('q') => return Goes::Out,
            Key::Char('/') => self.typing = true,
            Key::Escape => self.look_for(String::new()),
            Key::Char('p' | ' ') => self.paused = !self.paused,
            Key::Char('r') => self.orders[self.view as usize].reversed ^= true,
            Key::Char('s' | '>') => self.sort_by(1),
            Key::Char('S' | '<') => self.sort_by(self.view.columns() - 1),
            Key::Char('1') => self.turn_to(View::Hosts),
            Key::Char('2') => self.turn_to(View::Listeners),
            Key::Char('3') => self.turn_to(View::Outputs),
            Key::Tab => self.turn_by(1),
            Key::BackTab => self.turn_by(View::ALL.len() - 1),
            Key::Up | Key::Char('k') => self.offset = self.offset.saturating_sub(1),
            Key::Down | Key::Char('j') => self.scroll_by(1),
            Key::PageUp => self.offset = self.offset.saturating_sub(PAGE),
            Key::PageDown => self.scroll_by(PAGE),
            Key::Home => self.offset = 0,
            Key::End => self.scroll_by(usize::MAX),
            _ => {}
        }
        Goes::On
    }

    fn type_filter(&mut self, key: Key) {
        match key {
            Key::Enter => self.typing = false,
            Key::Escape => {
                self.typing = false;
                self.look_for(String::new());
            }
            Key::Backspace => {
                let mut filter = std::mem::take(&mut self.filter);
                filter.pop();
                self.look_for(filter);
            }
            Key::Char(typed) if self.filter.chars().count() < MAX_FILTER => {
                let mut filter = std::mem::take(&mut self.filter);
                filter.extend(typed.to_lowercase());
                self.look_for(filter);
            }
            _ => {}
        }
    }

    fn look_for(&mut self, filter: String) {
        self.filter = filter;
        self.offset = 0;
    }

    fn turn_to(&mut self, view: View) {
        self.view = view;
        self.offset = 0;
    }

    fn turn_by(&mut self, places: usize) {
        let place = (self.view as usize + places) % View::ALL.len();
        self.turn_to(View::ALL[place]);
    }

    fn sort_by(&mut self, places: usize) {
        let columns = self.view.columns();
        let order = &mut self.orders[self.view as usize];
        *order = Order::by((order.column + places) % columns);
        self.offset = 0;
    }

    fn scroll_by(&mut self, rows: usize) {
        let last = self.scrolled().saturating_sub(1);
        self.offset = self.offset.saturating_add(rows).min(last);
    }
}

/// Goes on with the rows that there were, by their addresses, and tells how many lines a
/// second came by the counter of this name.
fn follow<L: Stage>(
    before: &mut Vec<StageRow<L>>,
    lines: Vec<L>,
    seconds: Option<f64>,
) -> Vec<StageRow<L>> {
    let mut next = |line: L| {
        let is_it = |row: &StageRow<L>| row.line.address() == line.address();
        let place = before.iter().position(is_it);
        let row = place.map(|place| before.remove(place));
        let (mut history, mut rate) = (History::default(), 0);
        if let (Some(row), Some(seconds)) = (row, seconds) {
            let counters = [&line, &row.line].map(Stage::counters);
            let [now, then] = counters.map(|counters| counters.get("lines"));
            rate = per_second(now.saturating_sub(then), seconds);
            history = row.history;
            history.push(rate);
        }
        StageRow {
            line,
            rate,
            history,
        }
    };
    lines.into_iter().map(&mut next).collect()
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is for the eye; neither is negative"
)]
fn per_second(count: u64, seconds: f64) -> u64 {
    if seconds > 0.0 {
        (count as f64 / seconds).round() as u64
    } else {
        0
    }
}
