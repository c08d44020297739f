//! The last values of a number, and how they are drawn in one line.

use std::collections::VecDeque;

/// Values that are kept: a minute and more, by the shortest intervals that anybody reads.
pub(super) const LENGTH: usize = 40;

/// Eighths of a cell (Unicode, Block Elements), from little to much.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The same for terminals that have none.
const ASCII: [char; 8] = ['.', ':', '-', '=', '+', '*', '%', '#'];

/// The last values, the latest at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct History(VecDeque<u32>);

impl History {
    pub(super) fn push(&mut self, value: u64) {
        if self.0.len() == LENGTH {
            self.0.pop_front();
        }
        self.0.push_back(u32::try_from(value).unwrap_or(u32::MAX));
    }

    /// Whether there is nothing to be seen in it.
    pub(super) fn is_flat_zero(&self) -> bool {
        self.0.iter().all(|&value| value == 0)
    }

    /// The last values that have room, a character each, the largest of them as high as it
    /// gets; zero is a space.
    pub(super) fn drawn(&self, width: usize, unicode: bool) -> String {
        let levels = if unicode { BLOCKS } else { ASCII };
        let shown = self.0.len().min(width);
        let values = || self.0.iter().skip(self.0.len() - shown);
        let most = u64::from(values().copied().max().unwrap_or(0)).max(1);
        let level = |&value: &u32| match u64::from(value) * levels.len() as u64 {
            0 => ' ',
            eighths => {
                let place = usize::try_from(eighths.div_ceil(most)).unwrap_or(usize::MAX);
                *levels.get(place - 1).unwrap_or(&levels[levels.len() - 1])
            }
        };
        let padding = std::iter::repeat_n(' ', width - shown);
        padding.chain(values().map(level)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_values_are_drawn_by_the_largest_of_them() {
        let mut history = History::default();
        assert_eq!(history.drawn(3, true), "   ");
        for value in [99, 0, 1, 4, 8] {
            history.push(value);
        }
        assert_eq!(history.drawn(4, true), " ▁▄█");
        assert_eq!(history.drawn(4, false), " .=#");
        assert_eq!(history.drawn(6, false), " # ...");
        assert_eq!(history.drawn(0, true), "");
    }

    #[test]
    fn it_keeps_so_many_values_and_no_more() {
        let mut history = History::default();
        history.push(u64::MAX);
        assert!(!history.is_flat_zero());
        for _ in 0..LENGTH {
            history.push(0);
        }
        assert!(history.is_flat_zero());
        assert_eq!(history.0.len(), LENGTH);
    }
}
