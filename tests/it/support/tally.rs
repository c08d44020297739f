//! What counts and gauges come to, at their end of the way.

use std::collections::BTreeMap;

/// The sum of each count and the last value of each gauge, by name, type and tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) counts: BTreeMap<String, usize>,
    pub(crate) gauges: BTreeMap<String, usize>,
    pub(crate) lines: usize,
}

impl Tally {
    /// Adds a line, in the order of their coming. Every gauge of a test grows: one that
    /// does not has been overtaken.
    #[track_caller]
    pub(crate) fn add(&mut self, line: &str) {
        let parts = || {
            let (name, rest) = line.split_once(':')?;
            let (value, rest) = rest.split_once('|')?;
            Some((format!("{name}|{rest}"), value.parse().ok()?))
        };
        let (series, value): (String, usize) = parts().unwrap_or_else(|| panic!("{line:?}"));
        let kind = series.split('|').nth(1);
        match kind {
            Some("c") => *self.counts.entry(series).or_default() += value,
            Some("g") => {
                let before = self.gauges.insert(series, value);
                assert!(before.is_none_or(|before| before < value), "{line}");
            }
            _ => panic!("{line:?}"),
        }
        self.lines += 1;
    }

    /// Of all these lines.
    #[track_caller]
    pub(crate) fn of<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Self {
        let mut tally = Self::default();
        for line in lines {
            tally.add(line.as_ref());
        }
        tally
    }

    /// What the counts add up to.
    pub(crate) fn increments(&self) -> usize {
        self.counts.values().sum()
    }
}
