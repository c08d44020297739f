//! The members of a set, each once, in the order they came.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// Members kept of a context.
pub(super) const MAX_MEMBERS: usize = 1024;
/// What a member takes beside its text: where it ends, with room to grow, and at
/// most 16/7 places of 5 bytes in the table.
pub(super) const MEMBER_BYTES: usize = 24;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Members {
    text: Vec<u8>,
    ends: Vec<u32>,
    /// Numbers of members by the hash of their text.
    index: HashTable<u32>,
    /// How many were given back already.
    given: usize,
}

impl Members {
    /// Bytes that its parts take.
    pub(super) const fn bytes(&self) -> usize {
        self.text.capacity() + self.ends.len() * MEMBER_BYTES
    }

    /// The same if a member of this length comes.
    pub(super) fn bytes_with(&self, length: usize) -> usize {
        let text = room(self.text.len() + length).max(self.text.capacity());
        text + (self.ends.len() + 1) * MEMBER_BYTES
    }

    pub(super) fn is_full(&self) -> bool {
        self.ends.len() >= MAX_MEMBERS
    }

    fn get(&self, number: usize) -> Option<&[u8]> {
        let start = match number.checked_sub(1) {
            Some(before) => *self.ends.get(before)? as usize,
            None => 0,
        };
        self.text.get(start..*self.ends.get(number)? as usize)
    }

    /// Whether it is one that was not given back yet.
    pub(super) fn contains(&self, member: &[u8], hasher: &RandomState) -> bool {
        let is_it = |&number: &u32| {
            let number = number as usize;
            number >= self.given && self.get(number) == Some(member)
        };
        self.index.find(hasher.hash_one(member), is_it).is_some()
    }

    /// Takes one that it does not have.
    pub(super) fn push(&mut self, member: &[u8], hasher: &RandomState) {
        let length = self.text.len() + member.len();
        let (Ok(end), Ok(number)) = (u32::try_from(length), u32::try_from(self.ends.len())) else {
            return;
        };
        if length > self.text.capacity() {
            self.text.reserve_exact(room(length) - self.text.len());
        }
        self.text.extend_from_slice(member);
        self.ends.push(end);
        let mut index = std::mem::take(&mut self.index);
        index.insert_unique(hasher.hash_one(member), number, |&number| {
            hasher.hash_one(self.get(number as usize).unwrap_or_default())
        });
        self.index = index;
    }

    /// The next one to give back. From then on it is none.
    pub(super) fn give(&mut self) -> Option<&[u8]> {
        let number = self.given;
        self.given += 1;
        self.get(number)
    }

    pub(super) fn is_given(&self) -> bool {
        self.given >= self.ends.len()
    }
}

fn room(length: usize) -> usize {
    length.next_power_of_two().max(64)
}
