//! Asking the process to read its configuration anew, from within what that ends: the way
//! from whoever asks to whoever does it, and back to whoever asked.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// How long a reload may take, which makes a dump of its own.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reloaded {
    /// The keys that have changed, and have taken effect; none where nothing has.
    pub changed: Vec<String>,
}

/// Why the configuration stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// It is wrong; each mistake with its file and line.
    #[error("{0}")]
    Wrong(String),
    /// It is right, and cannot be run with here and now.
    #[error("goes on with the configuration of before: {0}")]
    Refused(String),
    /// Somebody else has asked.
    #[error("another reload is being made; try again")]
    Busy,
    /// It did not come to it.
    #[error("the daemon is stopping, or gives its place to another program")]
    Gone,
    /// It did not come to an end.
    #[error("the reload was not done within {} s; the log says more", TIMEOUT.as_secs())]
    Timeout,
}

/// One who waits for what comes of it.
#[derive(Debug)]
pub struct Asker(oneshot::Sender<Result<Reloaded, ReloadError>>);

impl Asker {
    /// Tells it.
    pub fn tell(self, outcome: Result<Reloaded, ReloadError>) {
        // Whoever asked may have gone: the log tells it too.
        let _gone = self.0.send(outcome);
    }
}

/// Where askers come from, one at a time.
#[derive(Debug)]
pub struct Askers(mpsc::Receiver<Asker>);

/// The way to the process.
#[derive(Clone, Debug)]
pub struct ReloadHandle(mpsc::Sender<Asker>);

impl Default for ReloadHandle {
    /// To a process that takes none.
    fn default() -> Self {
        channel().0
    }
}

/// A way to the process, and the process's end.
#[must_use]
pub fn channel() -> (ReloadHandle, Askers) {
    let (sender, askers) = mpsc::channel(1);
    (ReloadHandle(sender), Askers(askers))
}

impl Askers {
    /// The next; never, where nobody can ask.
    pub async fn next(&mut self) -> Asker {
        match self.0.recv().await {
            Some(asker) => asker,
            None => std::future::pending().await,
        }
    }
}

impl ReloadHandle {
    /// Has the configuration read anew, and waits until what it asks for runs.
    ///
    /// # Errors
    /// When the configuration stays as it was, or that is not known in time.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let (reply, outcome) = oneshot::channel();
        self.0.try_send(Asker(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReloadError::Busy,
            mpsc::error::TrySendError::Closed(_) => ReloadError::Gone,
        })?;
        match timeout(TIMEOUT, outcome).await {
            Ok(outcome) => outcome.map_err(|_| ReloadError::Gone)?,
            Err(_) => Err(ReloadError::Timeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_asks_at_a_time_and_none_for_ever() {
        let (handle, mut askers) = channel();
        let waits = {
            let handle = handle.clone();
            tokio::spawn(async move { handle.reload().await })
        };
        tokio::task::yield_now().await;
        assert_eq!(handle.reload().await, Err(ReloadError::Busy));
        let asker = askers.next().await;
        assert_eq!(waits.await.unwrap(), Err(ReloadError::Timeout));
        asker.tell(Ok(Reloaded {
            changed: Vec::new(),
        }));
        let wrong = || Err(ReloadError::Wrong("a:1".to_owned()));
        let tell = async { askers.next().await.tell(wrong()) };
        let ((), outcome) = tokio::join!(tell, handle.reload());
        assert_eq!(outcome, wrong());
        drop(askers);
        assert_eq!(handle.reload().await, Err(ReloadError::Gone));
    }
}
