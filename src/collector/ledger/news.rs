//! What events tell the ledger.

use super::flow::{Books, Told, begin, begin_late, learn, learn_end, settle};
use super::{Hearing, Ledger};
use crate::collector::ending::Detail;
use crate::collector::table::{Found, Kept, Marks};
use crate::conntrack::{Event, Happening};
use crate::flow::Beginning;
use crate::flow::key::FlowKey;
use crate::telemetry::Correction;

impl<D: Detail> Ledger<D> {
    /// An event, in the order in which they came.
    pub(in crate::collector) fn event(&mut self, event: &Event, now: u64, books: &mut Books<'_>) {
        let flow = &event.entry.flow;
        let key = self.keys.key(&flow.original, flow.protocol, flow.zone);
        match event.happening {
            Happening::New => self.began(key, event, now, books),
            Happening::Update => self.changed(key, event, now, books),
            Happening::Destroy => self.ended(key, event, now, books),
        }
    }

    fn began(&mut self, key: FlowKey, event: &Event, now: u64, books: &mut Books<'_>) {
        let touched = Marks::TOUCHED.when(self.stage.is_dumping());
        let is_full = self.is_full();
        match self.table.find(key) {
            Some(Found::Known(kept)) => {
                if kept.marks.has(Marks::FOUND) {
                    // The dump was faster; its state is newer than this.
                    kept.marks.unset(Marks::FOUND | Marks::MUTE);
                    begin(kept, event, now, &mut self.totals, books);
                    return;
                }
                if !kept.marks.has(Marks::DEAD) {
                    books.corrected(Correction::MissedDestroy);
                    let told = Told::by_absence(now);
                    let gone = self.gone.as_mut();
                    settle(kept, &told, &self.timeouts, &mut self.totals, gone, books);
                }
                let Some((row, outward)) = books.count.place(&event.entry.flow) else {
                    self.table.remove(key);
                    return;
                };
                *kept = Kept::new(key, row, event.entry.flow.state, D::default());
                kept.marks = touched | Marks::OUTWARD.when(outward);
                kept.epoch = self.epoch;
                books.count.tally.enter(row, event.entry.flow.state);
                begin(kept, event, now, &mut self.totals, books);
            }
            Some(Found::New(place)) => {
                let Some((row, outward)) = books.count.place(&event.entry.flow) else {
                    return;
                };
                if is_full {
                    self.turned_away += 1;
                    return;
                }
                let state = event.entry.flow.state;
                let kept = place.insert(Kept::new(key, row, state, D::default()));
                // No dump shows it as it was before this, and where no UPDATE comes, the
                // dump's state is the newer one.
                let told_of_more = self.hearing == Hearing::Everything;
                kept.marks = touched.when(told_of_more) | Marks::OUTWARD.when(outward);
                kept.epoch = self.epoch;
                books.count.tally.enter(row, state);
                begin(kept, event, now, &mut self.totals, books);
            }
            None => {}
        }
    }

    fn changed(&mut self, key: FlowKey, event: &Event, now: u64, books: &mut Books<'_>) {
        let Event {
            entry,
            state,
            status,
            ..
        } = event;
        let touched = Marks::TOUCHED.when(self.stage.is_dumping());
        let is_full = self.is_full();
        match self.table.find(key) {
            Some(Found::Known(kept)) => {
                if kept.marks.has(Marks::DEAD) {
                    return;
                }
                kept.marks.unset(Marks::MUTE | Marks::DIFFERED);
                kept.marks.set(touched);
                let status = status.unwrap_or_default();
                learn(kept, *state, status, &entry.details, now, books);
            }
            Some(Found::New(place)) => {
                // Without its state it is left for the next dump to find.
                let (Some(state), false) = (*state, is_full) else {
                    books.corrected(Correction::UnknownUpdate);
                    return;
                };
                let Some((row, outward)) = books.count.place(&entry.flow) else {
                    return;
                };
                let kept = place.insert(Kept::new(key, row, state, D::default()));
                kept.marks = Marks::FOUND
                    | touched
                    | Marks::OUTWARD.when(outward)
                    | Marks::PICKED_UP.when(entry.flow.beginning == Beginning::Missed);
                kept.epoch = self.epoch;
                books.count.tally.enter(row, state);
                let status = status.unwrap_or_default();
                learn(kept, Some(state), status, &entry.details, now, books);
                if !self.stage.is_dumping() && self.stage.is_known() {
                    books.corrected(Correction::UnknownUpdate);
                    begin_late(kept, false, Hearing::Nothing, &mut self.totals, books);
                }
            }
            None => {}
        }
    }

    fn ended(&mut self, key: FlowKey, event: &Event, now: u64, books: &mut Books<'_>) {
        let first = !self.stage.is_known();
        match self.table.find(key) {
            Some(Found::Known(kept)) => {
                if kept.marks.has(Marks::DEAD) {
                    return;
                }
                if kept.marks.has(Marks::FOUND) {
                    begin_late(kept, first, self.hearing, &mut self.totals, books);
                }
                learn_end(kept, event, books);
            }
            Some(Found::New(place)) => {
                let Some((row, outward)) = books.count.place(&event.entry.flow) else {
                    return;
                };
                if 0 < self.turned_away {
                    // Likely one for which there was no room: it began all the same.
                    self.turned_away -= 1;
                } else if !first {
                    books.corrected(Correction::UnknownDestroy);
                }
                let state = event.entry.flow.state;
                let kept = place.insert(Kept::new(key, row, state, D::default()));
                kept.marks = Marks::OUTWARD.when(outward)
                    | Marks::PICKED_UP.when(event.entry.flow.beginning == Beginning::Missed);
                books.count.tally.enter(row, state);
                begin_late(kept, first, Hearing::Nothing, &mut self.totals, books);
                learn_end(kept, event, books);
            }
            None => return,
        }
        let told = Told::by_event(event, now);
        let gone = self.gone.as_mut();
        if self.stage.is_dumping() {
            if let Some(Found::Known(kept)) = self.table.find(key) {
                settle(kept, &told, &self.timeouts, &mut self.totals, gone, books);
                kept.marks = Marks::DEAD;
            }
        } else if let Some(kept) = self.table.remove(key) {
            settle(&kept, &told, &self.timeouts, &mut self.totals, gone, books);
        }
    }
}
