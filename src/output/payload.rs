//! Lines packed into payloads that are ready for the wire.
//!
//! A [`Chunk`] is one buffer with payloads back to back, each behind its length
//! prefix where the transport may need one. A stream transport writes a chunk as
//! it is; a datagram transport sends its payloads one by one. No line is split,
//! and no payload is longer than the limit.

use memchr::{memchr, memchr_iter, memrchr};

mod gone;
#[cfg(test)]
mod tests;

/// A chunk holds as many whole payloads as fit into this: well below the 128 KiB
/// from which glibc's malloc asks the kernel for fresh pages each time.
const CHUNK_BYTES: usize = 124 << 10;

/// The little-endian `u32` before each payload of a `DogStatsD` stream.
const PREFIX_BYTES: usize = size_of::<u32>();

/// How payloads are told apart on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delimiter {
    /// By datagram borders.
    Datagram,
    /// By a little-endian `u32` length before each.
    LengthPrefix,
    /// By either, as the receiver turns out to want it: packed with the prefix,
    /// which a datagram leaves out.
    Auto,
    /// Not at all: lines end with a newline.
    Newline,
}

impl Delimiter {
    const fn prefix_bytes(self) -> usize {
        match self {
            Self::LengthPrefix | Self::Auto => PREFIX_BYTES,
            Self::Datagram | Self::Newline => 0,
        }
    }

    /// Whether a payload under construction is worth keeping back until it is
    /// full, though others go. A stream gains nothing from that once it is written to.
    #[must_use]
    pub const fn keeps_open(self) -> bool {
        matches!(self, Self::Datagram | Self::Auto)
    }
}

/// The shape of an output's payloads.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Most bytes in a payload, its prefix not counted.
    pub limit: usize,
    /// What separates them.
    pub delimiter: Delimiter,
}

impl Shape {
    const fn payload_bytes(self) -> usize {
        self.limit + self.delimiter.prefix_bytes()
    }

    /// Bytes of a chunk: a whole number of full payloads.
    fn chunk_bytes(self) -> usize {
        let payload = self.payload_bytes().max(1);
        payload * (CHUNK_BYTES / payload).max(1)
    }
}

/// One sealed payload of a chunk.
#[derive(Clone, Copy, Debug)]
struct Payload {
    /// Its end in the chunk's buffer.
    end: usize,
    lines: u64,
}

/// How much of a chunk has gone to the transport.
#[derive(Clone, Copy, Debug, Default)]
struct Gone {
    /// Bytes written, the beginning of a cut payload included.
    offset: usize,
    /// Bytes up to the last border that a new connection may go on from.
    whole: usize,
    /// Whole payloads.
    payloads: usize,
    /// Lines before `whole`.
    lines: u64,
}

/// What has newly gone whole, or was skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Payloads that ended.
    pub payloads: u64,
    /// Lines.
    pub lines: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
}

/// Payloads back to back.
#[derive(Debug)]
pub struct Chunk {
    shape: Shape,
    wire: Vec<u8>,
    payloads: Vec<Payload>,
    /// Lines behind the last sealed payload.
    open_lines: u64,
    gone: Gone,
    /// What had gone before the last payload, while that may yet be refused.
    unproven: Option<Gone>,
}

/// What became of lines that were appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Bytes that the chunk grew by.
    pub bytes: usize,
    /// Lines dropped because no payload can hold them.
    pub oversized: u64,
    /// Bytes of the longest of those.
    pub longest_oversized: usize,
    /// Whether a payload was begun.
    pub begun: bool,
}

impl Appended {
    /// Adds what became of more lines.
    pub fn add(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.oversized += more.oversized;
        self.longest_oversized = self.longest_oversized.max(more.longest_oversized);
        self.begun |= more.begun;
    }
}

impl Chunk {
    /// An empty one.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            wire: Vec::new(),
            payloads: Vec::new(),
            open_lines: 0,
            gone: Gone::default(),
            unproven: None,
        }
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.wire.clear();
        self.payloads.clear();
        self.open_lines = 0;
        self.gone = Gone::default();
        self.unproven = None;
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wire.is_empty()
    }

    /// Bytes in it, prefixes included: what it takes of its queue's room.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.wire.len()
    }

    /// Whether it holds payloads that wait for no more lines.
    #[must_use]
    pub fn has_sealed(&self) -> bool {
        !self.payloads.is_empty()
    }

    /// Whether lines stand behind the last sealed payload.
    #[must_use]
    pub fn has_open(&self) -> bool {
        self.open_lines > 0
    }

    /// Whether another full payload would not fit.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.has_open() && self.wire.len() + self.shape.payload_bytes() > self.shape.chunk_bytes()
    }

    fn open_start(&self) -> usize {
        self.payloads.last().map_or(0, |payload| payload.end)
    }

    /// Lines of the open payload, without prefix.
    fn open_bytes(&self) -> usize {
        if !self.has_open() {
            return 0;
        }
        self.wire.len() - self.open_start() - self.shape.delimiter.prefix_bytes()
    }

    fn extend(&mut self, lines: &[u8], count: u64, done: &mut Appended) {
        let before = self.wire.len();
        if self.wire.capacity() == 0 {
            self.wire.reserve_exact(self.shape.chunk_bytes());
        }
        if !self.has_open() {
            self.wire
                .resize(before + self.shape.delimiter.prefix_bytes(), 0);
            done.begun = true;
        }
        self.wire.extend_from_slice(lines);
        self.open_lines += count;
        done.bytes += self.wire.len() - before;
    }

    /// Ends the open payload, if there is one, and fills in its prefix.
    pub fn seal(&mut self) {
        if !self.has_open() {
            return;
        }
        let start = self.open_start();
        let prefix = self.shape.delimiter.prefix_bytes();
        if prefix > 0 {
            let length = u32::try_from(self.open_bytes()).unwrap_or(u32::MAX);
            if let Some(place) = self.wire.get_mut(start..start + prefix) {
                place.copy_from_slice(&length.to_le_bytes());
            }
        }
        self.payloads.push(Payload {
            end: self.wire.len(),
            lines: self.open_lines,
        });
        self.open_lines = 0;
    }

    /// Appends as many of `lines` as the chunk takes, `count` lines in all, each
    /// with its newline, and takes them off the front of `lines`.
    pub fn append(&mut self, lines: &mut &[u8], count: &mut u64) -> Appended {
        let mut done = Appended::default();
        while *count > 0 && !lines.is_empty() && !self.is_full() {
            let room = self.shape.limit.saturating_sub(self.open_bytes());
            if lines.len() <= room {
                self.extend(lines, *count, &mut done);
                *lines = &[];
                *count = 0;
                break;
            }
            let fits = lines.get(..room).and_then(|head| memrchr(b'\n', head));
            if let Some(newline) = fits {
                let (head, rest) = lines.split_at(newline + 1);
                let number = count_lines(head).min(*count);
                self.extend(head, number, &mut done);
                *count -= number;
                *lines = rest;
                self.seal();
            } else if self.has_open() {
                self.seal();
            } else {
                let end = memchr(b'\n', lines).map_or(lines.len(), |newline| newline + 1);
                let (line, rest) = lines.split_at(end);
                // Alone in its payload a line can do without its newline.
                let bare = line.strip_suffix(b"\n").unwrap_or(line);
                if bare.len() <= self.shape.limit && self.shape.delimiter != Delimiter::Newline {
                    self.extend(bare, 1, &mut done);
                    self.seal();
                } else {
                    done.oversized += 1;
                    done.longest_oversized = done.longest_oversized.max(bare.len());
                }
                *lines = rest;
                *count -= 1;
            }
        }
        done
    }

    /// Moves the open payload to the empty chunk `to`, so that the sealed ones can
    /// go without it.
    pub fn carry_open(&mut self, to: &mut Self) {
        if !self.has_open() {
            return;
        }
        let start = self.open_start();
        let lines = start + self.shape.delimiter.prefix_bytes();
        to.extend(
            self.wire.get(lines..).unwrap_or_default(),
            self.open_lines,
            &mut Appended::default(),
        );
        self.wire.truncate(start);
        self.open_lines = 0;
    }
}

/// Newlines in `lines`.
#[must_use]
pub fn count_lines(lines: &[u8]) -> u64 {
    memchr_iter(b'\n', lines).count() as u64
}
