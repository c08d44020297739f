//! How much of a chunk has gone, and what is left of it.

use memchr::{memchr, memrchr};

use super::{Chunk, Delimiter, Gone, Passed, count_lines};

impl Chunk {
    /// Bytes for a stream that it has not taken yet.
    #[must_use]
    pub fn unwritten(&self) -> &[u8] {
        self.wire.get(self.gone.offset..).unwrap_or_default()
    }

    /// The same, to the end of the payload under way.
    #[must_use]
    pub fn unwritten_payload(&self) -> &[u8] {
        let payload = self.payloads.get(self.gone.payloads);
        let end = payload.map_or(self.wire.len(), |payload| payload.end);
        self.wire.get(self.gone.offset..end).unwrap_or_default()
    }

    /// What is missing of a payload, or between newlines of a line, of which a part went.
    #[must_use]
    pub fn unwritten_of_cut(&self) -> &[u8] {
        if self.gone.offset == self.gone.whole {
            return &[];
        }
        let payload = self.unwritten_payload();
        match self.shape.delimiter {
            Delimiter::Newline => {
                let line = memchr(b'\n', payload).map_or(payload.len(), |newline| newline + 1);
                payload.get(..line).unwrap_or_default()
            }
            _ => payload,
        }
    }

    /// Notes that a stream took `bytes` more.
    pub fn wrote(&mut self, bytes: usize) -> Passed {
        let before = self.gone;
        let gone = &mut self.gone;
        gone.offset = self.wire.len().min(gone.offset + bytes);
        let mut start = 0;
        while let Some(payload) = self.payloads.get(gone.payloads)
            && payload.end <= gone.offset
        {
            // A payload that went in parts was counted in parts.
            start = payload.end;
            gone.payloads += 1;
        }
        if start > 0 {
            let ended = self.payloads.get(..gone.payloads).unwrap_or_default();
            gone.lines = ended.iter().map(|payload| payload.lines).sum();
            gone.whole = start;
        }
        if self.shape.delimiter == Delimiter::Newline {
            let part = self.wire.get(gone.whole..gone.offset).unwrap_or_default();
            if let Some(newline) = memrchr(b'\n', part) {
                gone.lines += count_lines(part);
                gone.whole += newline + 1;
            }
        }
        Passed {
            payloads: (gone.payloads - before.payloads) as u64,
            lines: gone.lines - before.lines,
            bytes: (gone.whole - before.whole) as u64,
        }
    }

    /// Notes that the next payload went as a datagram that may yet be refused: its lines
    /// have not gone until it is proven.
    pub fn try_payload(&mut self) {
        let before = self.gone;
        self.pass_payload();
        self.unproven = Some(before);
    }

    /// Notes that the payload on trial was not refused.
    pub fn prove(&mut self) -> Passed {
        let Some(before) = self.unproven.take() else {
            return Passed::default();
        };
        let prefix = self.shape.delimiter.prefix_bytes();
        Passed {
            payloads: 1,
            lines: self.gone.lines - before.lines,
            bytes: (self.gone.whole - before.whole - prefix) as u64,
        }
    }

    /// Notes that the payload on trial was refused: it is the next one again.
    pub fn step_back(&mut self) {
        if let Some(before) = self.unproven.take() {
            self.gone = before;
        }
    }

    /// Forgets the part of a cut payload (or, between newlines, of a cut line)
    /// that went to a connection now lost.
    pub fn rewind(&mut self) {
        self.gone.offset = self.gone.whole;
    }

    /// The next payload for a datagram.
    #[must_use]
    pub fn next_payload(&self) -> Option<&[u8]> {
        let payload = self.payloads.get(self.gone.payloads)?;
        self.wire
            .get(self.gone.whole + self.shape.delimiter.prefix_bytes()..payload.end)
    }

    /// Notes that the next payload went as a datagram, or is given up.
    pub fn pass_payload(&mut self) -> Passed {
        let Some(payload) = self.payloads.get(self.gone.payloads) else {
            return Passed::default();
        };
        let prefix = self.shape.delimiter.prefix_bytes();
        let passed = Passed {
            payloads: 1,
            lines: payload.lines,
            bytes: (payload.end - self.gone.whole - prefix) as u64,
        };
        self.gone = Gone {
            offset: payload.end,
            whole: payload.end,
            payloads: self.gone.payloads + 1,
            lines: self.gone.lines + payload.lines,
        };
        passed
    }

    /// The lines in it that have not gone, by payload; each line with its newline, which
    /// the last of a payload may lack.
    pub fn rest(&self) -> impl Iterator<Item = &[u8]> {
        let prefix = self.shape.delimiter.prefix_bytes();
        let gone = self.unproven.unwrap_or(self.gone);
        let payloads = self.payloads.get(gone.payloads..).unwrap_or_default();
        let open = self.has_open().then_some(self.wire.len());
        let ends = payloads.iter().map(|payload| payload.end).chain(open);
        let mut start = gone.whole;
        ends.filter_map(move |end| {
            let lines = self.wire.get(start + prefix..end);
            start = end;
            lines
        })
    }

    /// Lines in it that have not gone.
    #[must_use]
    pub fn lines(&self) -> u64 {
        let sealed: u64 = self.payloads.iter().map(|payload| payload.lines).sum();
        let gone = self.unproven.unwrap_or(self.gone);
        sealed + self.open_lines - gone.lines
    }
}
