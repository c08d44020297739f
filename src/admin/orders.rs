//! What the process, its outputs and its collector are told to do, and what came of it: an
//! object of JSON each, told apart by `type`.

use hyper::Method;
use serde::{Deserialize, Serialize};

use super::reload::{ReloadError, Reloaded};
use super::{Context, route};
use crate::log_filter::{FilterError, Filters};

/// An order that the command line gives.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order<'a> {
    /// Send what waits in the outputs.
    Flush,
    /// Read the configuration anew.
    Reload,
    /// Tell what is logged.
    Log,
    /// Log this.
    SetLog(&'a str),
    /// Stop reading the kernel.
    Pause,
    /// Go on.
    Resume,
}

impl Order<'_> {
    /// The method, path and query of its request.
    pub(super) fn request(self) -> (Method, String) {
        let post = |path: &str| (Method::POST, path.to_owned());
        match self {
            Self::Flush => post("/flush"),
            Self::Reload => post("/reload"),
            Self::Log => (Method::GET, "/log".to_owned()),
            Self::SetLog(filter) => (Method::PUT, route::log_target(filter)),
            Self::Pause => post("/collector/pause"),
            Self::Resume => post("/collector/resume"),
        }
    }
}

/// What came of one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// It is done, and there is nothing to tell.
    Done,
    /// The outputs were told to send.
    Flushing {
        /// Each of them.
        outputs: Vec<FlushedOutput>,
    },
    /// The configuration was read anew, and is in effect.
    Reloaded(Reloaded),
    /// This is logged.
    Log(Filters),
}

/// An output that was told to send.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct FlushedOutput {
    pub(crate) address: String,
    /// Lines that it held then.
    pub(crate) lines_held: u64,
}

/// Has the outputs send what waits for company. One that is away, or over its rate, sends
/// it later all the same: nobody waits for that here.
pub(super) fn flush(context: &Context) -> Outcome {
    let outputs = context.telemetry.outputs.iter();
    let outputs = outputs.map(|(address, counters)| FlushedOutput {
        address: address.clone(),
        lines_held: counters.held(),
    });
    let outputs = outputs.collect();
    for flusher in &context.views.flushers {
        flusher.flush();
    }
    Outcome::Flushing { outputs }
}

/// Waits until the new configuration runs. Who asked here is answered after all else of
/// the old one has stopped.
pub(super) async fn reload(context: &Context) -> Result<Outcome, ReloadError> {
    let reloaded = context.controls.reload.reload().await?;
    Ok(Outcome::Reloaded(reloaded))
}

pub(super) fn log(context: &Context) -> Outcome {
    Outcome::Log(context.controls.log.filters())
}

pub(super) fn set_log(context: &Context, filter: &str) -> Result<Outcome, FilterError> {
    let filters = context.controls.log.set(filter)?;
    tracing::info!(filter = filters.filter, "the log tells something else");
    Ok(Outcome::Log(filters))
}
