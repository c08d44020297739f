//! Standard output, which may block.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::task::spawn_blocking;

use super::{SendError, count, next_part};
use crate::output::payload::Chunk;
use crate::output::throttle::Throttle;
use crate::telemetry::OutputCounters;

/// Prints what is left of `chunk`, as [`super::Transport::send`] does.
pub(super) async fn print(
    chunk: &mut Chunk,
    throttle: &mut Throttle,
    counters: &OutputCounters,
) -> Result<(), SendError> {
    while !chunk.unwritten().is_empty() {
        let part = next_part(chunk, throttle).to_vec();
        throttle.ready(part.len(), counters).await;
        let (gone, outcome) = write(part).await?;
        throttle.went(gone);
        count(counters, chunk.wrote(gone));
        match outcome {
            Ok(()) => {}
            Err(Errno::PIPE) => return Err(SendError::Gone),
            Err(error) => return Err(SendError::Lost(error.into())),
        }
    }
    Ok(())
}

/// Standard output is written to on a thread of its own, since it may block, and
/// whoever opened it may have made it not block: both are waited out. Returns how
/// many bytes went.
async fn write(bytes: Vec<u8>) -> Result<(usize, Result<(), Errno>), SendError> {
    let printing = spawn_blocking(move || {
        let mut gone = 0;
        while let Some(rest @ [_, ..]) = bytes.get(gone..) {
            match rustix::io::write(io::stdout(), rest) {
                Ok(written) => gone += written,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let stdout = io::stdout();
                    let mut writable = [PollFd::new(&stdout, PollFlags::OUT)];
                    match poll(&mut writable, None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return (gone, Err(error)),
                    }
                }
                Err(error) => return (gone, Err(error)),
            }
        }
        (gone, Ok(()))
    });
    printing
        .await
        .map_err(|error| SendError::Lost(io::Error::other(error)))
}
