//! Bytes of a stream → frames.
//!
//! Two framings: a little-endian `u32` length before each frame (`DogStatsD` over
//! unix stream sockets), and lines. Which one a client speaks shows in its first
//! four bytes: a length below 16 MiB has a NUL among them, text has none.
//!
//! [`Framer`] works on slices and keeps no bytes; what is left over is the
//! caller's to keep. It is a [`Decoder`] too.

use std::io;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memrchr};
use tokio_util::codec::Decoder;

use crate::config::Framing;
use crate::handover;
use crate::telemetry::FrameDrop;

/// Bytes of a length prefix.
pub const PREFIX_BYTES: usize = size_of::<u32>();

/// An oversized frame is skipped without closing the connection up to this length.
pub const SKIP_LIMIT_BYTES: usize = 1 << 20;

/// The longest frame that there can be: longer ones have a prefix without a NUL,
/// as text has.
pub const MAX_FRAME_BYTES: usize = (1 << 24) - 1;

/// One step of cutting. Nothing is lost silently: what is no body is a drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut<B> {
    /// What a frame holds. With newline framing: whole lines, as many as there
    /// are, but not more than a frame may have bytes.
    Body(B),
    /// A frame, or line, longer than `max_frame`: it is skipped.
    Oversized,
    /// The stream ended inside a frame.
    Truncated,
}

impl<B> Cut<B> {
    /// The same, with another form of body.
    pub fn map<T>(self, form: impl FnOnce(B) -> T) -> Cut<T> {
        match self {
            Self::Body(body) => Cut::Body(form(body)),
            Self::Oversized => Cut::Oversized,
            Self::Truncated => Cut::Truncated,
        }
    }
}

/// Why the rest of a stream can't be cut.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Text where a length prefix should be.
    #[error("no length prefix: the stream begins a frame with {0:?}")]
    Unframed(String),
    /// A frame beyond what is skipped.
    #[error("a frame of {0} bytes or more: at most {SKIP_LIMIT_BYTES} are skipped")]
    Oversized(usize),
    /// The stream itself failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FrameError {
    /// As what the frame is counted, where one was lost.
    #[must_use]
    pub const fn reason(&self) -> Option<FrameDrop> {
        match self {
            Self::Unframed(_) => Some(FrameDrop::Unframed),
            Self::Oversized(_) => Some(FrameDrop::Oversized),
            Self::Io(_) => None,
        }
    }
}

/// Cuts one stream.
#[derive(Clone, Debug)]
pub struct Framer {
    /// `Auto` until the first bytes have shown which.
    framing: Framing,
    max_frame: usize,
    /// Of an oversized frame: bytes still to come with a length prefix, bytes
    /// gone with newlines. 0 outside of one.
    skip: usize,
    ended: u64,
}

impl Framer {
    /// For frames, or lines without their newline, of at most `max_frame` bytes.
    #[must_use]
    pub fn new(framing: Framing, max_frame: usize) -> Self {
        Self {
            framing,
            max_frame: max_frame.min(MAX_FRAME_BYTES),
            skip: 0,
            ended: 0,
        }
    }

    /// The same, that goes on where another stood.
    #[must_use]
    pub const fn at(mut self, cut: handover::Cut) -> Self {
        self.framing = cut.framing;
        self.skip = cut.skip;
        self
    }

    /// Where it stands.
    #[must_use]
    pub const fn place(&self) -> handover::Cut {
        handover::Cut {
            framing: self.framing,
            skip: self.skip,
        }
    }

    /// The framing, as far as it is known.
    #[must_use]
    pub const fn framing(&self) -> Framing {
        self.framing
    }

    /// How many frames have ended, empty and oversized ones too; runs of lines count as
    /// one. While it stays the same, it is one frame that goes on.
    #[must_use]
    pub const fn ended(&self) -> u64 {
        self.ended
    }

    /// Whether a frame has begun and not ended, where `rest` is left of the input.
    #[must_use]
    pub const fn is_inside_frame(&self, rest: &[u8]) -> bool {
        self.skip > 0 || !rest.is_empty()
    }

    /// Takes the next frame off the front of `input`. At `None`, what is left of
    /// it (at most `max_frame` bytes and a prefix) must stand before the bytes
    /// that come next.
    ///
    /// # Errors
    /// When the stream can't be cut any further; nothing more is to be asked then.
    #[inline]
    pub fn cut<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Cut<&'a [u8]>>, FrameError> {
        if self.framing == Framing::Auto {
            // Fewer bytes tell nothing, not even a newline: 10 is a length too.
            self.framing = match input.first_chunk::<PREFIX_BYTES>() {
                Some(prefix) if prefix.contains(&0) => Framing::Length,
                Some(_) => Framing::Newline,
                None if input.contains(&0) => Framing::Length,
                None => return Ok(None),
            };
        }
        if self.framing == Framing::Length {
            self.cut_prefixed(input)
        } else {
            self.cut_lines(input)
        }
    }

    #[inline]
    fn cut_prefixed<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Cut<&'a [u8]>>, FrameError> {
        loop {
            if self.skip > 0 {
                let gone = self.skip.min(input.len());
                self.skip -= gone;
                self.ended += u64::from(self.skip == 0);
                *input = input.get(gone..).unwrap_or_default();
            }
            let Some((prefix, rest)) = input.split_first_chunk::<PREFIX_BYTES>() else {
                return Ok(None);
            };
            let length = u32::from_le_bytes(*prefix) as usize;
            if length == 0 {
                // A sign of life.
                *input = rest;
                self.ended += 1;
                continue;
            }
            if length > self.max_frame {
                check_skip(*prefix, length)?;
                self.skip = length;
                *input = rest;
                return Ok(Some(Cut::Oversized));
            }
            let Some((body, rest)) = rest.split_at_checked(length) else {
                return Ok(None);
            };
            *input = rest;
            self.ended += 1;
            return Ok(Some(Cut::Body(body)));
        }
    }

    #[inline]
    fn cut_lines<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Cut<&'a [u8]>>, FrameError> {
        if self.skip > 0 {
            let newline = memchr(b'\n', input);
            self.skip += newline.unwrap_or(input.len());
            *input = newline
                .and_then(|newline| input.get(newline + 1..))
                .unwrap_or_default();
            if self.skip > SKIP_LIMIT_BYTES {
                return Err(FrameError::Oversized(self.skip));
            }
            if newline.is_none() {
                return Ok(None);
            }
            self.skip = 0;
            self.ended += 1;
        }
        let window = (self.max_frame + 1).min(input.len());
        let (window, rest) = input.split_at(window);
        if let Some(newline) = memrchr(b'\n', window) {
            let (lines, rest) = input.split_at(newline + 1);
            *input = rest;
            self.ended += 1;
            return Ok(Some(Cut::Body(lines)));
        }
        if window.len() <= self.max_frame {
            return Ok(None);
        }
        self.skip = window.len();
        *input = rest;
        Ok(Some(Cut::Oversized))
    }

    /// What is to be made of `rest`, left when the stream ended. The last line
    /// needs no newline; the last frame needs all of its bytes.
    #[must_use]
    pub fn finish<'a>(&mut self, rest: &'a [u8]) -> Option<Cut<&'a [u8]>> {
        if rest.is_empty() {
            // Inside an oversized frame or not: that one is counted already.
            return None;
        }
        let prefixed = match self.framing {
            Framing::Length => true,
            Framing::Newline => false,
            Framing::Auto => rest.contains(&0),
        };
        Some(if prefixed {
            Cut::Truncated
        } else {
            Cut::Body(rest)
        })
    }
}

/// Whether a frame of this length may be skipped.
fn check_skip(prefix: [u8; PREFIX_BYTES], length: usize) -> Result<(), FrameError> {
    if length > MAX_FRAME_BYTES {
        Err(FrameError::Unframed(prefix.escape_ascii().to_string()))
    } else if length > SKIP_LIMIT_BYTES {
        Err(FrameError::Oversized(length))
    } else {
        Ok(())
    }
}

impl Decoder for Framer {
    type Item = Cut<Bytes>;
    type Error = FrameError;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Cut<Bytes>>, FrameError> {
        let mut rest: &[u8] = input;
        let before = rest.len();
        let cut = self.cut(&mut rest)?;
        let gone = before - rest.len();
        // A body is the end of what was taken.
        let cut = cut.map(|cut| cut.map(|body| gone - body.len()..gone));
        let taken = input.split_to(gone).freeze();
        Ok(cut.map(|cut| cut.map(|body| taken.slice(body))))
    }

    fn decode_eof(&mut self, input: &mut BytesMut) -> Result<Option<Cut<Bytes>>, FrameError> {
        if let Some(cut) = self.decode(input)? {
            return Ok(Some(cut));
        }
        let rest = input.split().freeze();
        Ok(self.finish(&rest).map(|cut| cut.map(|_| rest.clone())))
    }
}

#[cfg(test)]
mod tests;
