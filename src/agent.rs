//! Wires the stages, starts them, stops them: the only file that knows all of them.
//!
//! They stop in the order of the flow: listeners drain, the report goes a last
//! time, and with the last sender gone each output sends what it holds and ends.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::system::uname;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{self, Admin, Endpoint};
use crate::collector::{CollectorError, Collectors, command};
use crate::config::{self, Config, Format, GroupMode, LineSource};
use crate::exposition::{Exposition, Teller};
use crate::flow::key::KeyHasher;
use crate::listen::{ListenError, Listener, Pressure, Watch};
use crate::output::health::Health;
use crate::output::only::Only;
use crate::output::own::OwnListeners;
use crate::output::shards::Shards;
use crate::output::spool::SpoolError;
use crate::output::turn::Turn;
use crate::output::{Branch, Ending, Fanout, Output, Way};
use crate::report::{Process, Reporter, Snapshot, resident_bytes};
use crate::telemetry::{OutputCounters, Telemetry};

/// How long the last look at the kernel's tables may take.
const LAST_LOOK: Duration = Duration::from_secs(2);
/// How long outputs may go on sending once their last sender is gone.
const OUTPUT_GRACE: Duration = Duration::from_secs(5);

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

/// The daemon, from bound sockets to the last line sent. Where the future is dropped
/// before, it logs what the outputs still held.
///
/// # Errors
/// Fails when a listener cannot be bound or a source that is named refuses; once
/// it runs, only when a stage ends by itself.
pub async fn run(config: &Config, stop: CancellationToken) -> Result<(), AgentError> {
    let mut telemetry = Telemetry::default();
    let mut bound = Vec::new();
    for listener in &config.listeners {
        let listener = Listener::bind(listener).await?;
        let counters = Arc::default();
        let name = listener.address().to_string();
        telemetry.listeners.push((name, Arc::clone(&counters)));
        bound.push((listener, counters));
    }
    let admin = admin_socket(config)?;
    let http = match &config.admin.http.0 {
        Some(address) => Some((Endpoint::bind(address).await?, Arc::default())),
        None => None,
    };
    telemetry.http = http.as_ref().map(|(_, counters)| Arc::clone(counters));
    let keys = KeyHasher::default();
    let (handle, commands) = command::channel().map_err(AgentError::Commands)?;
    let own = bound.iter().map(|(listener, _)| listener.address());
    let outputs = Outputs::start(config, &Arc::new(own.collect()), &mut telemetry)?;
    let _held = Held(telemetry.outputs.clone());
    let forwarded = Arc::new(outputs.forwarded);
    let collectors = Collectors::start(config, &mut telemetry, commands, keys.clone())?;

    let mut stages = JoinSet::new();
    let (teller, told) = Teller::new(config.hosts.max);
    if let Some((http, counters)) = http {
        let (keys, counted, telemetry) = (keys.clone(), Arc::clone(&counters), telemetry.clone());
        let exposition = Exposition::new(config, keys, telemetry, counted, told);
        stages.spawn(http.run(exposition, counters, stop.clone()));
    }
    if let Some(admin) = admin {
        let views = admin::Views {
            trackers: bound.iter().map(|(of, _)| of.tracker()).collect(),
            healths: outputs.healths,
        };
        let context = admin::Context::new(config, handle, keys, telemetry.clone()).showing(views);
        stages.spawn(admin.run(context, stop.clone()));
    }
    let pressure = Arc::<Pressure>::default();
    if !config.listeners.is_empty()
        && let Some(watch) = Watch::new(&config.memory, &pressure)
    {
        let outputs = telemetry.outputs.clone();
        let held = move || outputs.iter().map(|(_, output)| output.held_bytes()).sum();
        stages.spawn(watch.run(held, stop.clone()));
    }
    for (listener, counters) in bound {
        let listener = listener.under(Arc::clone(&pressure));
        stages.spawn(listener.run(Arc::clone(&forwarded), counters, stop.clone()));
    }
    drop(forwarded);
    let last_report = CancellationToken::new();
    let reporter = |to: Own| {
        Reporter::new(&config.report, &config.tags, to.tagged, to.untagged)
            .telling_of(config.outputs_by_group())
    };
    let voice = Voice {
        at_once: reporter(outputs.at_once),
        spread: reporter(outputs.spread).paced(config.interval.0 / 2, last_report.clone()),
        telemetry,
        teller,
        started: Instant::now(),
    };
    let mut report = tokio::spawn(report(
        voice,
        collectors,
        config.interval.0,
        last_report.clone(),
    ));

    let mut tasks = outputs.tasks;
    let mut failure = loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break None,
            ended = &mut report => break Some(unexpected("report", ended)),
            Some(ended) = stages.join_next() => break Some(unexpected("listener or admin endpoint", ended)),
            Some(_) = tasks.join_next() => if tasks.is_empty() {
                info!("nobody reads any output any more: stopping");
                break None;
            },
        }
    };
    stop.cancel();
    while let Some(ended) = stages.join_next().await {
        if let Err(error) = ended {
            failure.get_or_insert_with(|| unexpected("listener or admin endpoint", Err(error)));
        }
    }
    last_report.cancel();
    if !report.is_finished()
        && let Err(error) = report.await
    {
        failure.get_or_insert_with(|| unexpected("report", Err(error)));
    }
    finish(tasks, &outputs.give_up).await;
    failure.map_or(Ok(()), Err)
}

/// Binds the admin socket, if there is to be one.
fn admin_socket(config: &Config) -> Result<Option<Admin>, ListenError> {
    let path = &config.admin.socket;
    if path.is_empty() {
        return Ok(None);
    }
    match Admin::bind(Path::new(path), admin::Limits::default()) {
        Ok(admin) => Ok(Some(admin)),
        Err(error) if admin::is_dispensable(config, &error) => {
            warn!(%error, "no admin socket: name another in admin.socket, or turn it off (\"\")");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn unexpected(stage: &str, ended: Result<(), JoinError>) -> AgentError {
    AgentError::Stage(match ended {
        Ok(()) => format!("the {stage} ended"),
        Err(error) => format!("the {stage} failed: {error}"),
    })
}

/// The outputs' tasks, and the ends that lines go into.
struct Outputs {
    tasks: JoinSet<Ending>,
    /// In the order of their counters.
    healths: Vec<Arc<Health>>,
    /// Makes them count what they hold as dropped.
    give_up: CancellationToken,
    /// The agent's own lines, for outputs that get them at once.
    at_once: Own,
    /// The agent's own lines, for outputs that get long reports in portions.
    spread: Own,
    /// Lines of the listeners.
    forwarded: Fanout,
}

/// The ends that the agent's own lines go into.
#[derive(Default)]
struct Own {
    /// For formats with tags.
    tagged: Fanout,
    /// For formats without.
    untagged: Fanout,
}

impl Outputs {
    fn start(
        config: &Config,
        own: &Arc<OwnListeners>,
        telemetry: &mut Telemetry,
    ) -> Result<Self, SpoolError> {
        let give_up = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut healths = Vec::new();
        let (mut at_once, mut spread, mut forwarded) = (Own::default(), Own::default(), Vec::new());
        for members in config.output_groups() {
            let members: Vec<_> = members
                .iter()
                .filter_map(|&place| config.outputs.get(place))
                .collect();
            let Some(&first) = members.first() else {
                continue;
            };
            let addresses = || members.iter().map(|output| output.address.to_string());
            let turn = Arc::new(Turn::new(&first.group, addresses()));
            let mut ends = Vec::new();
            for (output, health) in members.iter().zip(turn.healths()) {
                let counters = Arc::<OutputCounters>::default();
                let hostname = hostname(config, output);
                let (inlet, task) =
                    Output::new(output, &hostname, config.interval.0, Arc::clone(&counters));
                let name = output.address.to_string();
                telemetry.outputs.push((name, Arc::clone(&counters)));
                ends.push((inlet, counters));
                healths.push(Arc::clone(&health));
                info!(address = %output.address, "sending to");
                let mut task = task.avoiding(Arc::clone(own)).telling(health);
                task.restore()?;
                tasks.spawn(task.run(give_up.clone()));
            }
            let Some((_, counters)) = ends.first() else {
                continue;
            };
            let only = Arc::new(Only::new(&first.only));
            let addresses: Vec<_> = addresses().collect();
            let shards = Arc::new(Shards::new(addresses.iter().map(String::as_str)));
            let branch = |source| {
                let mut inlets: Vec<_> = ends
                    .iter()
                    .map(|(inlet, _)| inlet.for_source(source))
                    .collect();
                let way = match (first.group_mode, inlets.len()) {
                    (_, 1) => Way::Lone(inlets.remove(0)),
                    (GroupMode::Failover, _) => Way::Failover(inlets, Arc::clone(&turn)),
                    (GroupMode::Hash, _) => Way::Hash(inlets, Arc::clone(&shards)),
                };
                Branch {
                    way,
                    only: Arc::clone(&only),
                    counters: Arc::clone(counters),
                }
            };
            if first.takes(LineSource::Collector) {
                let own = if first.spread {
                    &mut spread
                } else {
                    &mut at_once
                };
                let fanout = if first.format.has_tags() {
                    &mut own.tagged
                } else {
                    &mut own.untagged
                };
                fanout.add(branch(LineSource::Collector));
            }
            if first.takes(LineSource::Listeners) {
                forwarded.push(branch(LineSource::Listeners));
            }
        }
        Ok(Self {
            tasks,
            healths,
            give_up,
            at_once,
            spread,
            forwarded: Fanout::of(forwarded),
        })
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

/// The reporting host's name as an output has it: where it is a tag, the system's
/// unless the configuration has another; as a part of names, only when asked for.
fn hostname(config: &Config, output: &config::Output) -> String {
    match output.format {
        Format::Graphite | Format::Influx if config.hostname.is_empty() => {
            uname().nodename().to_string_lossy().into_owned()
        }
        _ => config.hostname.clone(),
    }
}

/// Waits for the outputs, whose senders are gone, and then for them to give up.
async fn finish(mut tasks: JoinSet<Ending>, give_up: &CancellationToken) {
    let mut all = pin!(async move {
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                error!(%error, "an output failed");
            }
        }
    });
    if timeout(OUTPUT_GRACE, &mut all).await.is_err() {
        warn!(grace = ?OUTPUT_GRACE, "outputs still hold lines: giving up on them");
        give_up.cancel();
        all.await;
    }
}

/// The report and what it tells of.
struct Voice {
    /// Ends before the other begins.
    at_once: Reporter,
    spread: Reporter,
    telemetry: Telemetry,
    /// Where scrapes read what the ticks told.
    teller: Teller,
    started: Instant,
}

impl Voice {
    async fn report(&mut self, snapshots: &[Snapshot]) {
        let process = Process {
            started: self.started,
            resident: resident_bytes(),
        };
        let now = Instant::now();
        for reporter in [&mut self.at_once, &mut self.spread] {
            reporter
                .report(snapshots, &self.telemetry, &process, now)
                .await;
        }
        self.teller.tell(snapshots);
    }
}

/// Asks the collectors at each tick, and sends what they answer and what the agent
/// counted itself. A report that is spread goes on while they are asked again: it takes
/// half a tick, so that no more than one other waits for its end.
async fn report(
    mut voice: Voice,
    mut collectors: Collectors,
    every: Duration,
    last: CancellationToken,
) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = last.cancelled() => break,
            snapshots = collectors.report() => {
                let mut reporting = pin!(voice.report(&snapshots));
                let mut asked = false;
                loop {
                    tokio::select! {
                        biased;
                        () = &mut reporting => break,
                        _ = ticks.tick(), if !asked => {
                            collectors.tick();
                            asked = true;
                        }
                    }
                }
            }
            _ = ticks.tick() => collectors.tick(),
        }
    }
    for snapshots in collectors.last(LAST_LOOK).await {
        voice.report(&snapshots).await;
    }
}
