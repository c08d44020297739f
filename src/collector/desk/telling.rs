//! What the desk tells to those who ask: ends for the journal, and pages of the flow
//! table.

use std::time::Duration;

use super::{Desk, MOST_OVER};
use crate::collector::command::{TABLE_PAGE, TablePage, TableRow};
use crate::collector::ending::{Detail, end_of};
use crate::collector::journal::Ended;
use crate::collector::ledger::{Gone, Ledger, marks_of};
use crate::conntrack::Events;
use crate::flow::{Entry, nanoseconds_since_epoch};
use crate::hosts::{Hosts, Remote};

impl<D: Detail> Desk<D> {
    /// Hands the ends of flows to those who want to know.
    pub(super) fn record_ends(&mut self) {
        let Some(ledger) = &mut self.ledger else {
            return;
        };
        let at = nanoseconds_since_epoch() / 1_000_000;
        for gone in ledger.take_ends() {
            self.journal.record(ended(gone, at, &self.count.hosts));
        }
    }

    /// Keeps ends only where somebody wants to know.
    pub(in crate::collector) fn watch_ends(&mut self) {
        let follows = self.journal.is_followed();
        if let Some(ledger) = &mut self.ledger {
            ledger.watch_ends(follows);
        }
    }

    /// Lets the next dump note what is over but still in the table.
    pub(in crate::collector) fn look_for_over(&mut self) {
        self.over = Some(Vec::new());
    }

    pub(super) fn note_over(&mut self, Entry { flow, details }: &Entry) {
        let Some(placement) = self.count.hosts.place(flow, &self.count.local) else {
            return;
        };
        let Some(ledger) = &self.ledger else {
            return;
        };
        let ended = Ended {
            at: self.now / 1_000_000,
            key: ledger.keys().key(&flow.original, flow.protocol, flow.zone),
            tuples: Some((flow.original, flow.reply)),
            host: self.count.hosts.host_name(placement.remote),
            address: Some(placement.address),
            protocol: flow.protocol,
            zone: flow.zone,
            direction: placement.direction,
            port: placement.port,
            end: end_of(flow.protocol, flow.state, marks_of(flow, details)),
            duration: None,
            traffic: details.traffic,
        };
        if let Some(over) = self.over.as_mut().filter(|over| over.len() < MOST_OVER) {
            over.push(ended);
        }
    }

    /// Tells of what was noted; of how many.
    pub(in crate::collector) fn announce_over(&mut self) -> u64 {
        let over = self.over.take().unwrap_or_default();
        let journal = &mut self.journal;
        over.into_iter()
            .map(|ended| u64::from(journal.announce(ended)))
            .sum()
    }

    /// What is followed, bytes that it takes, and the buffer of the event socket.
    pub(in crate::collector) fn sizes(&self) -> (usize, usize, Option<usize>) {
        let (flows, bytes) = self.ledger.as_ref().map_or((0, 0), Ledger::size);
        (flows, bytes, self.events.as_ref().map(Events::buffer_bytes))
    }

    /// A page of the flow table.
    pub(in crate::collector) fn page(&self, from: u64) -> TablePage {
        let Some(ledger) = &self.ledger else {
            return TablePage::default();
        };
        let (flows, next) = ledger.page(from, TABLE_PAGE);
        let rows = flows.into_iter().map(|kept| TableRow {
            key: kept.key(),
            row: kept.row.number(),
            state: kept.state().as_str(),
            flags: kept.marks.names(),
        });
        TablePage {
            rows: rows.collect(),
            next,
        }
    }
}

/// A flow that ended, as the journal has it.
fn ended(gone: Gone, at: u64, hosts: &Hosts) -> Ended {
    let Gone { series, tuples, .. } = gone;
    let address = match (series.remote, &tuples) {
        (Remote::Address(address) | Remote::Public(address), _) => Some(address),
        (_, Some((original, _))) if gone.outward => Some(original.dst),
        (_, Some((original, _))) => Some(original.src),
        _ => None,
    };
    Ended {
        at,
        key: gone.key,
        tuples,
        host: hosts.host_name(series.remote),
        address,
        protocol: gone.protocol,
        zone: gone.zone,
        direction: series.direction,
        port: series.port,
        end: gone.end,
        duration: gone.lasted.map(Duration::from_nanos),
        traffic: gone.traffic,
    }
}
