//! The values of one histogram, timing or distribution, and a sample of them when
//! there are too many.
//!
//! Of each block of so many values that came one behind the other, one is kept,
//! each as likely as the others, and the sample rate is divided by the block's
//! size. At first the block is one value. When there is no more room, blocks are
//! joined two by two, and a fair coin says whose value stays. So for any values in
//! any order the expected count and sum are the true ones, and the count is off by
//! less than a block.

use super::line::texts;

/// Bytes of text kept for each value that may be kept.
const VALUE_BYTES: usize = 16;
/// The least that is allocated.
const LEAST_BYTES: usize = 64;

/// Random numbers that need not be good: `SplitMix64`, <https://prng.di.unimi.it/splitmix64.c>.
#[derive(Clone, Debug)]
pub(super) struct Coin(pub(super) u64);

impl Coin {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn heads(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// A number below a power of two.
    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 1) & (bound - 1)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Values {
    /// The most bytes of text.
    most_bytes: usize,
    /// Packed with colons.
    text: Vec<u8>,
    /// Where those begin that were not taken.
    start: usize,
    held: usize,
    /// Values that each of those held stands for: a power of two.
    block: u64,
    /// Which value of its block comes next.
    position: u64,
    /// Which value of that block is kept.
    chosen: u64,
}

impl Values {
    /// None yet, of so many bytes of text at most.
    pub(super) const fn new(most_bytes: usize) -> Self {
        Self {
            most_bytes,
            text: Vec::new(),
            start: 0,
            held: 0,
            block: 1,
            position: 0,
            chosen: 0,
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Bytes of text.
    pub(super) const fn len(&self) -> usize {
        self.text.len() - self.start
    }

    fn most_values(&self) -> usize {
        self.most_bytes / VALUE_BYTES
    }

    /// What is allocated for so many bytes.
    fn room(&self, length: usize) -> usize {
        let room = length.min(self.most_bytes).next_power_of_two();
        room.max(LEAST_BYTES)
    }

    /// By what the sample rate is to be divided.
    pub(super) const fn block(&self) -> u64 {
        self.block
    }

    /// Bytes allocated for the text.
    pub(super) const fn bytes(&self) -> usize {
        self.text.capacity()
    }

    /// The same if so much more text comes.
    pub(super) fn bytes_with(&self, more: usize) -> usize {
        self.room(self.text.len() + more).max(self.bytes())
    }

    /// Takes a value, within so many bytes of text.
    pub(super) fn push(&mut self, value: &[u8], max_bytes: usize, coin: &mut Coin) {
        if self.start > 0 {
            // Some were taken, and then there was no more room to give them.
            self.text.drain(..self.start);
            self.start = 0;
        }
        while self.position == self.chosen {
            let length = self.text.len() + usize::from(self.held > 0) + value.len();
            if self.held < self.most_values() && length <= max_bytes.min(self.most_bytes) {
                self.append(value, length);
                break;
            }
            self.join_blocks(coin);
        }
        self.position += 1;
        if self.position == self.block {
            self.position = 0;
            self.chosen = coin.below(self.block);
        }
    }

    fn append(&mut self, value: &[u8], length: usize) {
        if length > self.text.capacity() {
            let room = self.room(length);
            self.text.reserve_exact(room - self.text.len());
        }
        if self.held > 0 {
            self.text.push(b':');
        }
        self.text.extend_from_slice(value);
        self.held += 1;
    }

    /// Makes one block of two. The value that comes is the chosen one of its own.
    fn join_blocks(&mut self, coin: &mut Coin) {
        let half = self.block;
        self.block *= 2;
        let is_odd = self.held % 2 == 1;
        let keeps_odd = is_odd && coin.heads();
        self.held = thin(&mut self.text, keeps_odd, coin);
        if is_odd {
            // The last block held and the present one make one.
            self.position += half;
            self.chosen = if keeps_odd { 0 } else { self.position };
        } else if coin.heads() {
            self.chosen = half + coin.below(half);
        }
    }

    fn left(&self) -> &[u8] {
        self.text.get(self.start..).unwrap_or_default()
    }

    /// Takes as many off the front as fit into so many bytes, at least one.
    pub(super) fn take(&mut self, max_bytes: usize) -> &[u8] {
        let left = self.left();
        let end = if left.len() <= max_bytes {
            left.len()
        } else {
            let fitting = left.get(..=max_bytes).unwrap_or_default();
            let colon = memchr::memrchr(b':', fitting);
            let first = || memchr::memchr(b':', left);
            colon.or_else(first).unwrap_or(left.len())
        };
        let taken = self.start..self.start + end;
        self.start = self.text.len().min(taken.end + 1);
        let taken = self.text.get(taken).unwrap_or_default();
        self.held -= texts(taken).count().min(self.held);
        taken
    }

    /// Thins what is left until it fits into so many bytes, for the last line.
    pub(super) fn squeeze(&mut self, max_bytes: usize, coin: &mut Coin) {
        self.text.drain(..self.start);
        self.start = 0;
        while self.text.len() > max_bytes && self.held > 1 {
            let keeps_odd = coin.heads();
            self.held = thin(&mut self.text, keeps_odd, coin);
            self.block *= 2;
        }
    }
}

/// Keeps one of each two values; of an odd number the last one where it should.
/// Returns how many are left.
fn thin(text: &mut Vec<u8>, keeps_odd: bool, coin: &mut Coin) -> usize {
    let mut kept = Vec::with_capacity(text.capacity());
    let mut number = 0;
    let mut values = texts(text);
    while let Some(first) = values.next() {
        let stays = match values.next() {
            Some(second) if coin.heads() => second,
            Some(_) => first,
            None if keeps_odd => first,
            None => break,
        };
        if number > 0 {
            kept.push(b':');
        }
        kept.extend_from_slice(stays);
        number += 1;
    }
    drop(values);
    *text = kept;
    number
}
