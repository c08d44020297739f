//! One at a time: of several that find the same stale socket file, each would replace what
//! another has just put there.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::time::{Instant, sleep};

/// How long another may take to bind, which takes it a few system calls.
const WAIT: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const PAUSE: Duration = Duration::from_millis(5);

/// A lock on the directory of a socket file (`flock(2)`): it leaves nothing behind, however
/// its holder ends.
#[derive(Debug)]
pub(super) struct DirectoryLock(#[expect(dead_code, reason = "held, not read")] Option<File>);

impl DirectoryLock {
    /// Waits for the lock. Whoever may read the directory can hold it for ever, and a
    /// directory need not be readable: then it is done without.
    pub(super) async fn of(path: &Path) -> Self {
        let Some(directory) = path.parent().and_then(|parent| File::open(parent).ok()) else {
            return Self(None);
        };
        let end = Instant::now() + WAIT;
        loop {
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Self(Some(directory)),
                Err(Errno::WOULDBLOCK) if Instant::now() < end => sleep(PAUSE).await,
                Err(error) => {
                    let path = path.display();
                    tracing::warn!(%path, %error, "the directory is not locked while the socket is bound");
                    return Self(None);
                }
            }
        }
    }
}
