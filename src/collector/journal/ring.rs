//! Ends in the order in which they came, so many and no more.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use super::ended::{Ended, Record, Service};

/// What went out of the ring before everybody had it.
#[derive(Debug)]
pub(super) struct Lost {
    /// Where it stood.
    pub(super) position: u64,
    /// How many ends it was.
    pub(super) count: u64,
}

#[derive(Debug)]
struct Held {
    position: u64,
    record: Record,
}

/// Records by position. Two queues, so that closes go before any failure does.
#[derive(Debug)]
pub(super) struct Ring {
    limit: usize,
    /// The position of the next record.
    next: u64,
    closed: VecDeque<Held>,
    failed: VecDeque<Held>,
    /// Where further ends of a service go: only into what no client has had yet.
    growing: HashMap<Service, u64, RandomState>,
}

impl Ring {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            next: 0,
            closed: VecDeque::new(),
            failed: VecDeque::new(),
            growing: HashMap::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.closed.len() + self.failed.len()
    }

    /// The position that the next record gets.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Gives a position away, so that what comes later is told from what came before.
    pub(super) fn skip(&mut self) -> u64 {
        let position = self.next;
        self.next += 1;
        position
    }

    /// Takes an end in, rolled up under pressure; tells whether it was, and what had to
    /// go for it.
    pub(super) fn push(&mut self, ended: Ended) -> (bool, Option<Lost>) {
        let service = (self.len() >= self.limit / 2)
            .then(|| ended.service())
            .flatten();
        let Some(service) = service else {
            return (false, self.push_alone(ended));
        };
        if let Some(&position) = self.growing.get(&service)
            && let Some(held) = self.find(position, ended.end.failure().is_some())
        {
            held.record.roll_up(service, &ended);
            return (true, None);
        }
        let position = self.next;
        let lost = self.push_alone(ended);
        if lost.as_ref().is_none_or(|lost| lost.position != position) {
            self.growing.insert(service, position);
        }
        (false, lost)
    }

    /// Takes an end in that is not to be rolled up.
    pub(super) fn push_alone(&mut self, ended: Ended) -> Option<Lost> {
        let has_failed = ended.end.failure().is_some();
        let position = self.skip();
        let lost = if self.len() < self.limit {
            None
        } else if let Some(oldest) = self.closed.pop_front() {
            Some(self.lose(&oldest))
        } else if has_failed {
            let oldest = self.failed.pop_front();
            oldest.map(|oldest| self.lose(&oldest))
        } else {
            // Nothing but failures: a close is the less worth keeping.
            return Some(Lost { position, count: 1 });
        };
        let queue = if has_failed {
            &mut self.failed
        } else {
            &mut self.closed
        };
        queue.push_back(Held {
            position,
            record: Record::One(Box::new(ended)),
        });
        lost
    }

    fn lose(&mut self, held: &Held) -> Lost {
        let service = match &held.record {
            Record::One(ended) => ended.service(),
            Record::Many(rolled) => Some(rolled.service.clone()),
        };
        if let Some(service) = service
            && self.growing.get(&service) == Some(&held.position)
        {
            self.growing.remove(&service);
        }
        Lost {
            position: held.position,
            count: held.record.count(),
        }
    }

    fn find(&mut self, position: u64, has_failed: bool) -> Option<&mut Held> {
        let queue = if has_failed {
            &mut self.failed
        } else {
            &mut self.closed
        };
        let index = queue
            .binary_search_by_key(&position, |held| held.position)
            .ok()?;
        queue.get_mut(index)
    }

    /// From here on, nothing is added to the records that are there.
    pub(super) fn seal(&mut self) {
        if !self.growing.is_empty() {
            self.growing = HashMap::default();
        }
    }

    /// Records from this position on, in their order.
    pub(super) fn since(&self, position: u64) -> impl Iterator<Item = (u64, &Record)> {
        let from = |queue: &VecDeque<Held>| queue.partition_point(|held| held.position < position);
        let mut closed = self.closed.range(from(&self.closed)..).peekable();
        let mut failed = self.failed.range(from(&self.failed)..).peekable();
        std::iter::from_fn(move || {
            let held = match (closed.peek(), failed.peek()) {
                (Some(one), Some(other)) if one.position < other.position => closed.next(),
                (Some(_), None) => closed.next(),
                _ => failed.next(),
            }?;
            Some((held.position, &held.record))
        })
    }

    /// Forgets what stands before this position, and gives a burst's memory back.
    pub(super) fn forget(&mut self, position: u64) {
        for queue in [&mut self.closed, &mut self.failed] {
            let gone = queue.partition_point(|held| held.position < position);
            queue.drain(..gone);
            if queue.is_empty() {
                queue.shrink_to_fit();
            }
        }
    }
}
