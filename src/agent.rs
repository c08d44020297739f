//! Wires the stages, starts them, stops them: the only file that knows all of them.
//!
//! They stop in the order of the flow: listeners drain, the report goes a last
//! time, and with the last sender gone each output sends what it holds and ends.
//! Where another process takes our place, the report goes first, since the kernel is asked
//! for it, and then nothing waits: what listeners and outputs hold is left ([`handover`]).

mod doors;
mod outputs;
mod running;
mod voice;

use std::io;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;

use self::doors::Doors;
use self::outputs::Outputs;
use self::running::Running;
use self::voice::{Voice, report, reporters};
use crate::admin;
use crate::collector::{CollectorError, Collectors, command};
use crate::config::Config;
use crate::exposition::{Exposition, Teller};
use crate::flow::key::KeyHasher;
use crate::handover::{self, Inherited, Legacy};
use crate::listen::{Ends, ListenError, Listener, Pressure, Watch};
use crate::output::Fanout;
use crate::output::spool::SpoolError;
use crate::progress::Progress;
use crate::report::Latest;
use crate::telemetry::{ListenerCounters, OutputCounters, Telemetry};

/// Why the daemon did not start, or ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A listener could not be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A source that the configuration names refused.
    #[error(transparent)]
    Collector(#[from] CollectorError),
    /// The collector's thread could not be given a way to be asked.
    #[error("cannot make a way to the collector's thread: {0}")]
    Commands(#[source] io::Error),
    /// An output's spool can't be used.
    #[error("{0}: give the output another spool, or none")]
    Spool(#[from] SpoolError),
    /// A stage ended by itself.
    #[error("a stage ended unexpectedly: {0}")]
    Stage(String),
    /// A second signal came.
    #[error("ended by a second signal before all was sent")]
    Interrupted,
}

impl AgentError {
    /// Whether a capability or permission is what is missing.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Listen(error) => matches!(error, ListenError::Permission { .. }),
            Self::Collector(error) => error.is_permission(),
            Self::Commands(_) | Self::Spool(_) | Self::Stage(_) | Self::Interrupted => false,
        }
    }
}

/// How the daemon ended.
#[derive(Debug)]
pub enum Ended {
    /// All was sent, or counted as lost.
    Stopped,
    /// It leaves its sockets and what was not sent.
    Left(Legacy),
    /// It could not start by this configuration, and leaves what it was given.
    Refused(AgentError, Legacy),
}

/// By what the daemon is told to end, and what it tells meanwhile.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// When it is to end, and whether to leave what it has.
    pub ends: Ends,
    /// Whether it moves.
    pub progress: Arc<Progress>,
    /// How short memory is: the same for as long as the process lives.
    pub pressure: Arc<Pressure>,
    /// What the process does that the admin socket is asked for.
    pub controls: admin::Controls,
}

/// The daemon, from bound sockets, or those that it inherits, to the last line sent or what
/// it leaves. Where the future is dropped before, it logs what the outputs still held.
///
/// # Errors
/// Fails when a stage ends by itself. Where a listener cannot be bound, or a source that is
/// named refuses, it ends as [`Ended::Refused`].
pub async fn run(
    config: &Config,
    mut inherited: Inherited,
    control: Control,
) -> Result<Ended, AgentError> {
    let Control {
        ends,
        progress,
        pressure,
        controls,
    } = control;
    let mut telemetry = Telemetry::default();
    let mut bound = Vec::new();
    let mut doors = Doors::default();
    let asked = bind(
        config,
        &mut inherited,
        &mut telemetry,
        &mut bound,
        &mut doors,
    )
    .await
    .map_err(AgentError::from)
    .and_then(|()| command::channel().map_err(AgentError::Commands));
    let (handle, commands) = match asked {
        Ok(asked) => asked,
        Err(error) => return Ok(refuse(error, bound, doors, None, inherited).await),
    };
    let keys = KeyHasher::default();
    let own = Arc::new(bound.iter().map(|(of, _)| of.address()).collect());
    let leave = ends.leave.clone();
    let mut outputs = Outputs::new(leave.clone());
    let started = outputs.start(config, &own, &mut telemetry, &mut inherited);
    let collectors = started.map_err(AgentError::from).and_then(|()| {
        let left = inherited.take_events();
        Collectors::start(config, &mut telemetry, commands, keys.clone(), left)
            .map_err(AgentError::from)
    });
    let collectors = match collectors {
        Ok(collectors) => collectors,
        Err(error) => return Ok(refuse(error, bound, doors, Some(outputs), inherited).await),
    };
    let memory = inherited.take_series();
    inherited.finish();
    let _held = Held(telemetry.outputs.clone());
    let forwarded = Arc::new(Fanout::of(outputs.forwarded));

    // By what the listeners are told to end, which may be later than the agent is.
    let inner = Ends {
        stop: CancellationToken::new(),
        leave: leave.clone(),
    };
    let mut stages = JoinSet::new();
    let (teller, told) = Teller::new(config.hosts.max);
    let (latest, ticks) = Latest::channel();
    if let Some(http) = doors.http {
        let counters = http.counters();
        let exposition = Exposition::new(config, keys.clone(), &telemetry, counters, told);
        stages.spawn(http.run(exposition, Arc::clone(&progress), inner.clone()));
    }
    if let Some(admin) = doors.admin {
        let views = admin::Views {
            trackers: bound.iter().map(|(of, _)| of.tracker()).collect(),
            healths: outputs.healths,
            latest: ticks,
            flushers: outputs.flushers,
        };
        let context = admin::Context::new(config, handle, keys, telemetry.clone());
        let context = context.showing(views).controlling(controls);
        stages.spawn(admin.run(context, inner.clone()));
    }
    watch_memory(config, &pressure, &telemetry, &inner.stop, &mut stages);
    for (listener, counters) in bound {
        let listener = listener.under(Arc::clone(&pressure));
        stages.spawn(listener.run(Arc::clone(&forwarded), counters, inner.clone()));
    }
    drop(forwarded);
    let last_report = CancellationToken::new();
    let started = Instant::now();
    let to = [outputs.at_once, outputs.spread];
    let voice = Voice {
        reporters: reporters(config, to, &last_report)
            .map(|reporter| reporter.remembering(&memory, started)),
        telemetry,
        teller,
        latest,
        started,
    };
    let report = tokio::spawn(report(
        voice,
        collectors,
        config.interval.0,
        last_report.clone(),
        leave.clone(),
        progress,
    ));

    let running = Running {
        stages,
        report,
        last_report,
        outputs: outputs.tasks,
        give_up: outputs.give_up,
        ends: inner,
    };
    running.until(&ends.stop).await
}

/// A stage that has nothing to leave.
async fn leaving_nothing(stage: impl Future<Output = ()>) -> Option<handover::Listener> {
    stage.await;
    None
}

/// What the daemon does not start with, it leaves as it was given.
async fn refuse(
    error: AgentError,
    bound: Vec<(Listener, Arc<ListenerCounters>)>,
    doors: Doors,
    outputs: Option<Outputs>,
    inherited: Inherited,
) -> Ended {
    let mut legacy = inherited.into_legacy();
    legacy.listeners.extend(
        bound
            .into_iter()
            .filter_map(|(listener, _)| listener.leave()),
    );
    legacy.listeners.extend(doors.leave());
    if let Some(outputs) = outputs {
        legacy.outputs.extend(outputs.leave().await);
    }
    Ended::Refused(error, legacy)
}

/// Binds the listeners and the doors, or goes on with those that are left.
///
/// # Errors
/// When one cannot be bound; those before it are.
async fn bind(
    config: &Config,
    inherited: &mut Inherited,
    telemetry: &mut Telemetry,
    bound: &mut Vec<(Listener, Arc<ListenerCounters>)>,
    doors: &mut Doors,
) -> Result<(), ListenError> {
    for listener in &config.listeners {
        let left = inherited.take_listener(&listener.address);
        let listener = Listener::open(listener, left).await?;
        let counters = Arc::default();
        let name = listener.address().to_string();
        telemetry.listeners.push((name, Arc::clone(&counters)));
        bound.push((listener, counters));
    }
    doors.open(config, inherited, telemetry).await
}

/// Starts what measures memory for the listeners, if there is a limit to it.
fn watch_memory(
    config: &Config,
    pressure: &Arc<Pressure>,
    telemetry: &Telemetry,
    stop: &CancellationToken,
    stages: &mut JoinSet<Option<handover::Listener>>,
) {
    if !config.listeners.is_empty()
        && let Some(watch) = Watch::new(&config.memory, pressure)
    {
        let outputs = telemetry.outputs.clone();
        let held = move || outputs.iter().map(|(_, output)| output.held_bytes()).sum();
        stages.spawn(leaving_nothing(watch.run(held, stop.clone())));
    }
}

/// Says at the end which outputs still hold lines: none, unless the agent is ended
/// before they have sent them or given them up.
struct Held(Vec<(String, Arc<OutputCounters>)>);

impl Drop for Held {
    fn drop(&mut self) {
        for (output, counters) in &self.0 {
            let (held, dropped) = (counters.held(), counters.dropped.total());
            if held > 0 {
                error!(%output, held, dropped, "ended with lines held, which are lost");
            }
        }
    }
}
