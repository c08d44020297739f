//! Bodies: one that is there, or lines that come as they are made.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

use crate::connections::Goes;

/// Lines go out in pieces of this size.
const PIECE_BYTES: usize = 32 << 10;
/// Pieces that may wait for the one who asked.
const PIECES: usize = 4;

/// The answer broke off; the connection ends without the mark of a whole body.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
pub(super) struct BrokeOff;

/// What a request or a response carries.
#[derive(Debug)]
pub(super) enum Body {
    Whole(Option<Bytes>),
    Lines(mpsc::Receiver<Result<Bytes, BrokeOff>>),
}

impl Body {
    pub(super) const EMPTY: Self = Self::Whole(None);
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Lines(pieces) => pieces
                .poll_recv(cx)
                .map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Lines(_) => SizeHint::default(),
        }
    }
}

/// The end that lines are written into.
#[derive(Debug)]
pub(super) struct Lines {
    piece: Vec<u8>,
    pieces: mpsc::Sender<Result<Bytes, BrokeOff>>,
}

/// A body, and where its lines go.
pub(super) fn lines() -> (Lines, Body) {
    let (pieces, receiver) = mpsc::channel(PIECES);
    let piece = Vec::with_capacity(PIECE_BYTES);
    (Lines { piece, pieces }, Body::Lines(receiver))
}

/// Whether there is still somebody who reads.
type Sent = Result<(), Gone>;

/// Whoever asked has gone.
#[derive(Debug)]
pub(super) struct Gone;

impl Lines {
    fn is_full(&self) -> bool {
        self.piece.len() >= PIECE_BYTES
    }

    fn take(&mut self) -> Bytes {
        // A piece has room for a line beyond its size.
        let empty = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 8);
        std::mem::replace(&mut self.piece, empty).into()
    }

    /// Adds a line, on a thread that may wait.
    pub(super) fn add_blocking(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Goes {
        write(&mut self.piece);
        if self.is_full() {
            let piece = self.take();
            if self.pieces.blocking_send(Ok(piece)).is_err() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Adds a line.
    pub(super) async fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Sent {
        write(&mut self.piece);
        if self.is_full() {
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends what there is; room for it means that what went before is being read.
    pub(super) async fn flush(&mut self) -> Sent {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = self.take();
        self.pieces.send(Ok(piece)).await.map_err(|_| Gone)
    }

    /// Sends what is left: the answer is whole.
    pub(super) async fn finish(mut self) -> Sent {
        self.flush().await
    }

    /// Sends what is left, and breaks off.
    pub(super) async fn break_off(mut self) -> Sent {
        self.flush().await?;
        self.pieces.send(Err(BrokeOff)).await.map_err(|_| Gone)
    }
}

/// Writes an object as a line.
pub(super) fn object(out: &mut Vec<u8>, object: &impl serde::Serialize) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, object).is_err() {
        // Only a map whose keys are no strings fails, and none of ours is one.
        out.truncate(start);
        return;
    }
    out.push(b'\n');
}

/// What cannot fail.
pub(super) type Answered<T> = Result<T, Infallible>;
