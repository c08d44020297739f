//! `conntally run`: the daemon's process: logging, runtime, signals.

mod signals;
mod supervisor;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use rustix::process::geteuid;
use tokio::runtime::Builder;
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use self::signals::{Asked, Signals};
use self::supervisor::Watchdog;
use super::logging::{self, Role};
use super::{CliError, ConfigArgs, Verbosity};
use crate::admin::Controls;
use crate::admin::reload::{self, Asker, Askers, ReloadError, Reloaded};
use crate::agent::{self, AgentError, Control, Ended};
use crate::config::{Config, Environment};
use crate::handover::{self, HandoverError, Inherited, Legacy, Program};
use crate::listen::{Pressure, allow_descriptors};
use crate::progress::Progress;
use crate::sandbox::{self, Standing};

/// Tasks run before the kernel is asked who else has something to say: where some wake each
/// other without end, the runtime's 61 would be as many reads of 64 KiB.
const TASKS_PER_LOOK: u32 = 8;

/// Name lookups and standard output are all that blocks, at most one for each output;
/// threads are made when they are needed, and end when they are not.
const MAX_BLOCKING_THREADS: usize = 64;

pub(super) fn run(
    args: &ConfigArgs,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<(), CliError> {
    let log = logging::start(Role::Daemon, verbosity, environment)?;
    let (reload, askers) = reload::channel();
    let mut inherited = Inherited::take(environment);
    let loaded = args.load(environment)?;
    let version = env!("CARGO_PKG_VERSION");
    if loaded.files.is_empty() {
        info!(version, "conntally starts, by the built-in defaults");
        make_directory(&environment.runtime_directory()).map_err(CliError::Start)?;
    } else {
        info!(version, files = ?loaded.files, "conntally starts");
    }
    let program = Program::of_process().ok();
    let mut config = loaded.config;
    note(&config);
    if let Some((wanted, allowed)) = allow_descriptors(&config.listeners) {
        warn!(
            wanted,
            allowed,
            "max_connections of the listeners take more file descriptors than are allowed: raise \
             the limit (LimitNOFILE=, ulimit -Hn), or lower max_connections; beyond it, who comes \
             waits"
        );
    }
    let (standing, left) = sandbox::enter(&config, &loaded.files, environment, inherited)?;
    inherited = left;
    // From here on there may be threads.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .event_interval(TASKS_PER_LOOK)
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build()
        .map_err(CliError::Start)?;
    let process = Process {
        program: program.map(|program| program.told(standing.variable())),
        standing,
        args,
        environment,
        pressure: Arc::default(),
        controls: Controls { reload, log },
    };
    // For as long as the process: none that comes between two runs is to be missed.
    let listening = runtime.block_on(async { Signals::listen() });
    let signals = listening.map_err(CliError::Start)?;
    let mut orders = Orders {
        signals,
        askers,
        reloading: None,
    };
    // The configuration before the last reload.
    let mut before = None;
    let ended = loop {
        let run = process.until_ended(&config, inherited, &mut orders);
        let (ended, way) = match runtime.block_on(run) {
            Ok(ended) => ended,
            Err(error) => break Err(error),
        };
        match (ended, way) {
            (Ended::Stopped, _) => break Ok(()),
            (Ended::Refused(error, legacy), _) => {
                let Some(before) = before.take() else {
                    legacy.close();
                    break Err(error.into());
                };
                error!(%error, "goes on with the configuration of before");
                orders.reloaded(Err(ReloadError::Refused(error.to_string())));
                config = before;
                inherited = Inherited::of(legacy);
            }
            (Ended::Left(legacy), Way::Again(new)) => {
                before = Some(std::mem::replace(&mut config, *new));
                inherited = Inherited::of(legacy);
            }
            (Ended::Left(legacy), Way::InPlace) => {
                // Back again only where that failed: then nobody else takes our place.
                let error = process.execute(&legacy);
                error!(%error, "nothing took this process's place: it goes on");
                inherited = Inherited::of(legacy);
            }
            (Ended::Left(legacy), Way::Store) => {
                leave_to_systemd(&legacy);
                break Ok(());
            }
        }
    };
    // A write to standard output that nobody reads must not hold up the end.
    runtime.shutdown_background();
    ended
}

fn note(config: &Config) {
    for note in config.notes() {
        warn!("{note}");
    }
}

fn leave_to_systemd(legacy: &Legacy) {
    let (descriptors, lines) = (legacy.descriptors(), legacy.lines());
    match handover::store(legacy) {
        Ok(()) => info!(descriptors, lines, "left to systemd, for a restart"),
        Err(error) => error!(%error, lines, "what is left is lost"),
    }
}

/// To whom what is left goes.
#[derive(Debug)]
enum Way {
    /// To the program that is executed in place.
    InPlace,
    /// To systemd's descriptor store.
    Store,
    /// To ourselves, with another configuration.
    Again(Box<Config>),
}

/// What the process was started with.
struct Process<'a> {
    program: Option<Program>,
    args: &'a ConfigArgs,
    environment: &'a Environment,
    /// What it may still do.
    standing: Standing,
    /// A reload gives no memory back.
    pressure: Arc<Pressure>,
    controls: Controls,
}

/// Where orders come from, and a reload that is under way.
struct Orders {
    signals: Signals,
    askers: Askers,
    reloading: Option<Reloading>,
}

/// A new configuration that does not run yet.
struct Reloading {
    /// The keys that have changed.
    changed: Vec<String>,
    /// Who is to be told, if not the log alone.
    waits: Option<Asker>,
}

impl Orders {
    /// What came of the reload that is under way, if there is one.
    fn reloaded(&mut self, outcome: Result<(), ReloadError>) {
        if let Some(Reloading { changed, waits }) = self.reloading.take()
            && let Some(asker) = waits
        {
            asker.tell(outcome.map(|()| Reloaded { changed }));
        }
    }
}

impl Process<'_> {
    /// Runs the daemon until it ends, or is told to.
    async fn until_ended(
        &self,
        config: &Config,
        inherited: Inherited,
        orders: &mut Orders,
    ) -> Result<(Ended, Way), CliError> {
        let control = Control {
            progress: Arc::new(Progress::of(config.interval.0)),
            pressure: Arc::clone(&self.pressure),
            controls: self.controls.clone(),
            ..Control::default()
        };
        let Control { ends, progress, .. } = &control;
        let mut agent = pin!(agent::run(config, inherited, control.clone()));
        let mut watchdog = Watchdog::new();
        let mut way = Way::InPlace;
        let mut is_ready = false;
        loop {
            let mut waits = None;
            let asked = tokio::select! {
                biased;
                ended = &mut agent => return Ok((ended?, way)),
                asked = orders.signals.next() => asked,
                // Who asks while it ends is heard by the next agent, if there is one.
                asker = orders.askers.next(), if !ends.stop.is_cancelled() => {
                    waits = Some(asker);
                    Asked::Reload
                }
                () = progress.ready(), if !is_ready => {
                    is_ready = true;
                    supervisor::ready(config);
                    orders.reloaded(Ok(()));
                    continue;
                }
                () = watchdog.feed(progress) => continue,
            };
            match asked {
                Asked::End(name) if ends.stop.is_cancelled() => {
                    warn!(signal = name, "second signal: ending at once");
                    return Err(AgentError::Interrupted.into());
                }
                Asked::End(name) => {
                    info!(signal = name, "stopping; a second signal ends at once");
                    supervisor::stopping();
                    if handover::has_store() {
                        way = Way::Store;
                        ends.leave.cancel();
                    }
                    ends.stop.cancel();
                }
                // It ends already.
                Asked::Reload | Asked::Replace if ends.stop.is_cancelled() => {}
                Asked::Reload => {
                    let read = self.read_anew(config);
                    let Ok(Some((new, changed))) = read else {
                        if let Some(asker) = waits {
                            let changed = Vec::new();
                            let unchanged = |_: Option<_>| Reloaded { changed };
                            asker.tell(read.map(unchanged));
                        }
                        continue;
                    };
                    orders.reloading = Some(Reloading { changed, waits });
                    supervisor::reloading();
                    way = Way::Again(Box::new(new));
                    ends.leave.cancel();
                    ends.stop.cancel();
                }
                Asked::Replace => {
                    info!("SIGUSR2: another program is to take this process's place");
                    let checked = tokio::select! {
                        biased;
                        ended = &mut agent => return Ok((ended?, way)),
                        checked = self.check() => checked,
                    };
                    if let Err(error) = checked {
                        error!(error, "nothing takes this process's place");
                        continue;
                    }
                    supervisor::reloading();
                    ends.leave.cancel();
                    ends.stop.cancel();
                }
            }
        }
    }

    /// The configuration and the keys that have changed in it, if any have.
    fn read_anew(&self, config: &Config) -> Result<Option<(Config, Vec<String>)>, ReloadError> {
        let loaded = self.args.load(self.environment).map_err(|error| {
            error!(%error, "reload: the configuration stays as it was");
            ReloadError::Wrong(error.to_string())
        })?;
        if loaded.config == *config {
            info!("reload: the configuration has not changed");
            return Ok(None);
        }
        let forbidden = self.standing.forbids(&loaded.config, &loaded.files);
        if !forbidden.is_empty() {
            let what = forbidden.join("; ");
            error!(
                what,
                "reload: the new configuration needs a restart; it stays as it was"
            );
            return Err(ReloadError::Refused(format!("needs a restart: {what}")));
        }
        let changed = config.changes(&loaded.config);
        info!(files = ?loaded.files, ?changed, "reload: goes on with the new configuration");
        note(&loaded.config);
        Ok(Some((loaded.config, changed)))
    }

    /// Whether the program that now stands at our path runs with our configuration.
    async fn check(&self) -> Result<(), String> {
        let Some(program) = self.program.clone() else {
            return Err("the system does not tell this program's path".to_owned());
        };
        let config = self.args.path();
        let checked = spawn_blocking(move || program.check(config.as_deref())).await;
        match checked {
            Ok(checked) => checked.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn execute(&self, legacy: &Legacy) -> HandoverError {
        match &self.program {
            Some(program) => program.execute(legacy),
            None => HandoverError::Write(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Makes the runtime directory, traversable by whoever may write to the sockets in it.
/// One that somebody else made in a shared place is not used.
fn make_directory(path: &Path) -> io::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    let owner = made.and_then(|()| Ok(fs::symlink_metadata(path)?.uid()));
    let ours = geteuid().as_raw();
    match owner {
        Ok(owner) if owner == ours || owner == 0 => Ok(()),
        Ok(owner) => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "the directory {} for the sockets belongs to user {owner}: remove it, or set \
                 XDG_RUNTIME_DIR",
                path.display()
            ),
        )),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("the directory {} for the sockets: {error}", path.display()),
        )),
    }
}
