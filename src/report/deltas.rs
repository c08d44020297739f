//! What was added to a counter since the last tick, and whether it is worth a line.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::telemetry::Sample;

#[derive(Debug, Default)]
struct Past {
    total: u64,
    /// Whether the last line said 0.
    quiet: bool,
}

/// A counter's first line says where it stands, 0 too, so that its series exists
/// before it is needed. After that, a 0 is sent once behind each run of numbers,
/// so that graphs come back down, and no more.
#[derive(Debug, Default)]
pub(super) struct Deltas {
    past: HashMap<Box<str>, Past, RandomState>,
    key: String,
}

impl Deltas {
    /// What to send for a total: what was added since the last call, if anything
    /// is to be sent. A total that shrank began anew.
    pub(super) fn advance(&mut self, sample: &Sample<'_>) -> Option<u64> {
        self.key.clear();
        self.key.push_str(sample.name);
        for (name, value) in sample.tags {
            for part in ["\0", name, "\0", value] {
                self.key.push_str(part);
            }
        }
        let mut delta = sample.value;
        let news = note(&mut self.past, &self.key, |past| {
            if past.total <= delta {
                delta -= past.total;
            }
            past.total = sample.value;
            delta
        });
        news.then_some(delta)
    }

    /// Whether to send this number of what is counted by someone else, in this
    /// network namespace.
    pub(super) fn is_news(&mut self, netns: Option<&str>, name: &str, delta: u64) -> bool {
        self.key.clear();
        self.key.push_str(name);
        if let Some(netns) = netns {
            for part in ["\0netns\0", netns] {
                self.key.push_str(part);
            }
        }
        note(&mut self.past, &self.key, |_| delta)
    }
}

fn note(
    past: &mut HashMap<Box<str>, Past, RandomState>,
    key: &str,
    delta: impl FnOnce(&mut Past) -> u64,
) -> bool {
    let Some(past) = past.get_mut(key) else {
        let mut fresh = Past::default();
        fresh.quiet = delta(&mut fresh) == 0;
        past.insert(key.into(), fresh);
        return true;
    };
    let quiet = delta(past) == 0;
    let news = !(quiet && past.quiet);
    past.quiet = quiet;
    news
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Kind;

    fn advance(deltas: &mut Deltas, value: u64) -> Option<u64> {
        deltas.advance(&Sample {
            name: "listener.lines",
            kind: Kind::Count,
            tags: &[("listener", "a")],
            value,
        })
    }

    #[test]
    fn a_counter_is_sent_as_what_was_added_and_as_zero_once() {
        let mut deltas = Deltas::default();
        let sent: Vec<_> = [0, 0, 5, 5, 5, 7, 7]
            .map(|total| advance(&mut deltas, total))
            .into();
        assert_eq!(
            sent,
            [Some(0), None, Some(5), Some(0), None, Some(2), Some(0)]
        );
    }

    #[test]
    fn a_counter_that_began_anew_is_sent_whole() {
        let mut deltas = Deltas::default();
        assert_eq!(advance(&mut deltas, 100), Some(100));
        assert_eq!(advance(&mut deltas, 30), Some(30));
    }

    #[test]
    fn counters_with_other_tags_are_others() {
        let mut deltas = Deltas::default();
        assert_eq!(advance(&mut deltas, 9), Some(9));
        let other = Sample {
            name: "listener.lines",
            kind: Kind::Count,
            tags: &[("listener", "b")],
            value: 4,
        };
        assert_eq!(deltas.advance(&other), Some(4));
        assert_eq!(advance(&mut deltas, 10), Some(1));
    }
}
