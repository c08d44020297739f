//! One load through the bare relay and through conntally, by turns.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use crate::process::Process;
use crate::workload::{Sink, Workload};

/// As many connections as a handful of busy services.
pub(crate) const CONNECTIONS: usize = 4;
/// Lines that do not come for so long are lost.
const GIVE_UP: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(2);

/// What conntally is asked for beside relaying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Nothing.
    Plain,
    /// Its own metrics, a tag on every line, timeouts.
    Full,
}

/// What one relay did with one load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) peak_kib: u64,
}

impl Outcome {
    pub(crate) fn cpu_per_million(&self) -> f64 {
        self.cpu_seconds * 1e6 / as_float(self.received.max(1))
    }

    pub(crate) fn per_second(&self) -> f64 {
        as_float(self.received) / self.seconds
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(crate) fn as_float(number: u64) -> f64 {
    number as f64
}

/// The rounds of both relays.
pub(crate) struct Comparison {
    pub(crate) bare: Vec<Outcome>,
    pub(crate) ours: Vec<Outcome>,
}

/// Which relay.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Relay {
    Bare,
    Conntally {
        /// Of the collector.
        source: &'static str,
        load: Load,
        /// Lines for its configuration.
        output: &'static str,
    },
}

impl Relay {
    /// Starts it, to send to an address; and where it listens, in `directory`.
    pub(crate) fn start(self, directory: &Path, address: &str) -> io::Result<(Process, PathBuf)> {
        let socket = directory.join("in.socket");
        let relay = match self {
            Self::Bare => {
                let mut relay = Process::role("bare", &[&socket.display().to_string(), address])?;
                relay.line()?;
                relay
            }
            Self::Conntally {
                source,
                load,
                output,
            } => {
                let limits = match load {
                    Load::Plain => "",
                    Load::Full => "tags = [\"env:prod\"]\nidle_timeout = \"60s\"\n",
                };
                let config = directory.join("conntally.toml");
                fs::write(
                    &config,
                    format!(
                        "[collector]\nsource = \"{source}\"\n\
                         [report]\ntelemetry = {telemetry}\n\
                         [admin]\nsocket = \"{admin}\"\n\
                         [[listener]]\naddress = \"unixstream://{listen}\"\n{limits}\
                         [[output]]\naddress = \"{address}\"\n{output}",
                        telemetry = load == Load::Full,
                        admin = directory.join("admin.socket").display(),
                        listen = socket.display(),
                    ),
                )?;
                Process::conntally(&config, &socket)?
            }
        };
        Ok((relay, socket))
    }
}

/// A directory, a receiver and a relay that sends to it.
pub(crate) struct Setting {
    pub(crate) socket: PathBuf,
    pub(crate) receiver: Process,
    pub(crate) relay: Process,
    // Last, as fields are dropped in order: nobody uses the directory any more.
    _directory: TempDir,
}

impl Setting {
    fn receiver(sink: Sink, directory: &Path) -> io::Result<(Process, String)> {
        let directory = directory.display().to_string();
        let mut receiver = Process::role("receive", &[&sink.to_string(), &directory])?;
        let address = receiver.line()?;
        Ok((receiver, address))
    }

    fn bare(sink: Sink) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let (receiver, address) = Self::receiver(sink, directory.path())?;
        let (relay, socket) = Relay::Bare.start(directory.path(), &address)?;
        Ok(Self {
            socket,
            receiver,
            relay,
            _directory: directory,
        })
    }

    /// `source` is the collector's; `load` what else it has to do.
    pub(crate) fn conntally(sink: Sink, source: &'static str, load: Load) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let (receiver, address) = Self::receiver(sink, directory.path())?;
        let relay = Relay::Conntally {
            source,
            load,
            output: "",
        };
        let (relay, socket) = relay.start(directory.path(), &address)?;
        Ok(Self {
            socket,
            receiver,
            relay,
            _directory: directory,
        })
    }

    /// Sends the load, and waits until all of it has come out or no more does.
    pub(crate) fn carry(
        &mut self,
        workload: &Workload,
        connections: usize,
        messages: u64,
    ) -> io::Result<Outcome> {
        let before = self.receiver.ask()?;
        let mut generator = Process::role(
            "generate",
            &[
                &self.socket.display().to_string(),
                &connections.to_string(),
                &workload.frames.to_string(),
                &workload.writes.to_string(),
                &workload.per_second.unwrap_or(0).to_string(),
                &messages.to_string(),
            ],
        )?;
        generator.line()?;
        let cpu = self.relay.cpu_seconds()?;
        let started = Instant::now();
        generator.nudge()?;
        while generator.ended()?.is_none() {
            if let Some(status) = self.relay.ended()? {
                return Err(io::Error::other(format!("the relay ended: {status}")));
            }
            thread::sleep(POLL);
        }
        let sent: u64 = generator
            .rest()?
            .trim()
            .parse()
            .map_err(|_| io::Error::other("the generator failed"))?;

        let mut received = 0;
        let mut progress = Instant::now();
        let mut arrived = progress;
        while received < sent && progress.elapsed() < GIVE_UP {
            let now = self.receiver.ask()? - before;
            if now > received {
                received = now;
                progress = Instant::now();
                arrived = progress;
            } else {
                thread::sleep(POLL);
            }
        }
        Ok(Outcome {
            sent,
            received,
            seconds: (arrived - started).as_secs_f64(),
            cpu_seconds: self.relay.cpu_seconds()? - cpu,
            peak_kib: self.relay.peak_kib()?,
        })
    }
}

fn once(
    mut setting: Setting,
    workload: &Workload,
    connections: usize,
    messages: u64,
) -> io::Result<Outcome> {
    let outcome = setting.carry(workload, connections, messages)?;
    setting.relay.end()?;
    setting.receiver.end()?;
    Ok(outcome)
}

pub(crate) fn compare(
    workload: &Workload,
    load: Load,
    connections: usize,
    messages: u64,
    rounds: usize,
) -> io::Result<Comparison> {
    let mut comparison = Comparison {
        bare: Vec::new(),
        ours: Vec::new(),
    };
    for _ in 0..rounds {
        let bare = Setting::bare(workload.sink)?;
        comparison
            .bare
            .push(once(bare, workload, connections, messages)?);
        let ours = Setting::conntally(workload.sink, "off", load)?;
        comparison
            .ours
            .push(once(ours, workload, connections, messages)?);
    }
    Ok(comparison)
}
