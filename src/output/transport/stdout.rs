//! Standard output, which may block.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::task::spawn_blocking;

use super::{SendError, count};
use crate::output::payload::Chunk;
use crate::telemetry::OutputCounters;

/// Standard output is written to on a thread of its own, since it may block, and
/// whoever opened it may have made it not block: both are waited out.
pub(super) async fn print(chunk: &mut Chunk, counters: &OutputCounters) -> Result<(), SendError> {
    let bytes = chunk.unwritten().to_vec();
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
    let (gone, outcome) = printing
        .await
        .map_err(|error| SendError::Lost(io::Error::other(error)))?;
    count(counters, chunk.wrote(gone));
    match outcome {
        Ok(()) => Ok(()),
        Err(Errno::PIPE) => Err(SendError::Gone),
        Err(error) => Err(SendError::Lost(error.into())),
    }
}
