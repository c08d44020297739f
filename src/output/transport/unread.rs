//! What of the lines sent may lie in the receiver's socket, unread: if it dies, they
//! are lost with it, and only their number is known.
//!
//! A bound and no count: the kernel says neither how far a receiver has read nor how
//! much it took along.

use std::collections::VecDeque;

/// Neighbours are told of together up to so many of a bound's parts.
const PARTS: usize = 64;

/// The last lines that went, as many as the sockets can hold.
#[derive(Debug)]
pub(super) struct Unread {
    /// The most that can be unread, bytes as the kernel counts them.
    most_bytes: usize,
    /// The oldest first.
    parts: VecDeque<Part>,
    bytes: usize,
    lines: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    bytes: usize,
    lines: u64,
}

impl Unread {
    pub(super) const fn new(most_bytes: usize) -> Self {
        Self {
            most_bytes,
            parts: VecDeque::new(),
            bytes: 0,
            lines: 0,
        }
    }

    /// So much more went.
    pub(super) fn note(&mut self, bytes: usize, lines: u64) {
        self.bytes += bytes;
        self.lines += lines;
        match self.parts.back_mut() {
            Some(last) if last.bytes + bytes <= self.most_bytes / PARTS => {
                last.bytes += bytes;
                last.lines += lines;
            }
            _ => self.parts.push_back(Part { bytes, lines }),
        }
        while let Some(&first) = self.parts.front()
            && self.bytes - first.bytes >= self.most_bytes
        {
            self.parts.pop_front();
            self.bytes -= first.bytes;
            self.lines -= first.lines;
        }
    }

    /// All has been read.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.most_bytes);
    }

    /// Lines that may be unread.
    pub(super) const fn lines(&self) -> u64 {
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// All lines of the last `most_bytes` are in it, and little more.
        #[test]
        fn prop_the_last_bytes_are_covered(
            most in 1_usize..5000,
            parts in prop::collection::vec((0_usize..2000, 0_u64..9), 0..300),
        ) {
            let mut unread = Unread::new(most);
            for (number, &(bytes, lines)) in parts.iter().enumerate() {
                unread.note(bytes, lines);
                let (mut covered, mut least) = (0, 0);
                for &(bytes, lines) in parts[..=number].iter().rev() {
                    if covered >= most {
                        break;
                    }
                    covered += bytes;
                    least += lines;
                }
                prop_assert!(unread.lines() >= least);
                let held: u64 = unread.parts.iter().map(|part| part.lines).sum();
                prop_assert_eq!(unread.lines(), held);
                prop_assert!(unread.bytes < most + 2000 + most / PARTS);
                prop_assert!(unread.parts.len() <= 2 * PARTS + most.min(300));
            }
            unread.clear();
            prop_assert_eq!(unread.lines(), 0);
        }
    }
}
