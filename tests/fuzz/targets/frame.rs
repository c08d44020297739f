//! Any bytes as a stream: whole or in pieces, the same comes of it.

use bytes::BytesMut;
use conntally::config::Framing;
use conntally::frame::{Cut, Framer};
use tokio_util::codec::Decoder;

const MAX_FRAME: usize = 64;

/// The bytes of all bodies, the number of other cuts, and whether it went wrong.
fn decode<'a>(framing: Framing, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, usize, bool) {
    let mut framer = Framer::new(framing, MAX_FRAME);
    let mut input = BytesMut::new();
    let (mut bodies, mut drops) = (Vec::new(), 0);
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match framer.decode(&mut input) {
                Ok(Some(Cut::Body(body))) => bodies.extend_from_slice(&body),
                Ok(Some(_)) => drops += 1,
                Ok(None) => break,
                Err(_) => return (bodies, drops, true),
            }
        }
    }
    match framer.decode_eof(&mut input) {
        Ok(Some(Cut::Body(body))) => bodies.extend_from_slice(&body),
        Ok(Some(_)) => drops += 1,
        Ok(None) => {}
        Err(_) => return (bodies, drops, true),
    }
    (bodies, drops, false)
}

/// The first byte says how long the pieces are.
pub(crate) fn run(stream: &[u8]) {
    let Some((&size, stream)) = stream.split_first() else {
        return;
    };
    for framing in [Framing::Auto, Framing::Length, Framing::Newline] {
        let pieces = stream.chunks(usize::from(size).max(1));
        let whole = std::iter::once(stream);
        assert_eq!(
            decode(framing, pieces),
            decode(framing, whole),
            "{framing:?}"
        );
    }
}
