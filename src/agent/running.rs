//! All that runs, and how it ends in order.

use std::pin::pin;
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{AgentError, Ended};
use crate::handover::{self, Legacy};
use crate::listen::Ends;
use crate::output::Ending;
use crate::report::SentSeries;

/// How long outputs may go on sending once their last sender is gone.
const OUTPUT_GRACE: Duration = Duration::from_secs(5);
/// The same where another process takes our place: senders wait for it.
const LEAVING_GRACE: Duration = Duration::from_millis(100);

/// What the report leaves.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) events: Option<handover::Events>,
    pub(super) series: SentSeries,
}

/// All that runs, and by what it is told to end.
pub(super) struct Running {
    /// Listeners, the admin socket, the watch over memory.
    pub(super) stages: JoinSet<Option<handover::Listener>>,
    pub(super) report: JoinHandle<Told>,
    pub(super) last_report: CancellationToken,
    pub(super) outputs: JoinSet<Ending>,
    pub(super) give_up: CancellationToken,
    /// Of the stages: later than the agent's, where something comes before.
    pub(super) ends: Ends,
}

impl Running {
    /// Runs until it is to stop, or a stage ends by itself; then ends it all in order.
    pub(super) async fn until(mut self, stop: &CancellationToken) -> Result<Ended, AgentError> {
        let mut failure = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break None,
                ended = &mut self.report => break Some(unexpected("report", ended.map(drop))),
                Some(ended) = self.stages.join_next() => {
                    break Some(unexpected("listener or admin socket", ended.map(drop)));
                }
                Some(_) = self.outputs.join_next() => if self.outputs.is_empty() {
                    info!("nobody reads any output any more: stopping");
                    break None;
                },
            }
        };
        let leaves = self.ends.leave.is_cancelled();
        let mut told = Told::default();
        if leaves {
            // While senders are still read: it may take as long as a look at the kernel does.
            told = self.end_report(&mut failure).await;
        }
        self.ends.stop.cancel();
        let mut listeners = Vec::new();
        while let Some(ended) = self.stages.join_next().await {
            match ended {
                Ok(left) => listeners.extend(left),
                Err(error) => {
                    let stage = "listener or admin socket";
                    failure.get_or_insert_with(|| unexpected(stage, Err(error)));
                }
            }
        }
        if !leaves {
            self.end_report(&mut failure).await;
        }
        let grace = if leaves { LEAVING_GRACE } else { OUTPUT_GRACE };
        let outputs = finish(self.outputs, &self.give_up, grace).await;
        match failure {
            Some(failure) => Err(failure),
            None if leaves => Ok(Ended::Left(Legacy {
                listeners,
                outputs,
                events: told.events,
                series: told.series,
            })),
            None => Ok(Ended::Stopped),
        }
    }

    /// Lets the report go a last time, unless it has ended by itself.
    async fn end_report(&mut self, failure: &mut Option<AgentError>) -> Told {
        self.last_report.cancel();
        if self.report.is_finished() {
            return Told::default();
        }
        match (&mut self.report).await {
            Ok(told) => told,
            Err(error) => {
                failure.get_or_insert_with(|| unexpected("report", Err(error)));
                Told::default()
            }
        }
    }
}

fn unexpected(stage: &str, ended: Result<(), JoinError>) -> AgentError {
    AgentError::Stage(match ended {
        Ok(()) => format!("the {stage} ended"),
        Err(error) => format!("the {stage} failed: {error}"),
    })
}

/// Waits for the outputs, whose senders are gone, and then for them to give up. Returns what
/// they leave.
pub(super) async fn finish(
    mut tasks: JoinSet<Ending>,
    give_up: &CancellationToken,
    grace: Duration,
) -> Vec<handover::Output> {
    let mut all = pin!(async move {
        let mut left = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(Ending::Left(output)) => left.push(output),
                Ok(_) => {}
                Err(error) => error!(%error, "an output failed"),
            }
        }
        left
    });
    if let Ok(left) = timeout(grace, &mut all).await {
        return left;
    }
    info!(?grace, "outputs still hold lines: they go no further");
    give_up.cancel();
    all.await
}
