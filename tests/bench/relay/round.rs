//! One load through the bare relay and through conntally, by turns.

use std::fs;
use std::io;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use crate::process::Process;
use crate::workload::{Reads, Sink, Source, Workload};

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
    /// What the kernel had no room for in the relay's UDP socket.
    pub(crate) kernel_drops: u64,
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
    /// The bare one that reads datagrams in batches; none with streams.
    pub(crate) batched: Vec<Outcome>,
    pub(crate) ours: Vec<Outcome>,
}

/// Which relay.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Relay {
    Bare(Reads),
    Conntally {
        /// Of the collector.
        source: &'static str,
        load: Load,
        /// Lines for its configuration.
        output: &'static str,
    },
}

impl Relay {
    /// Starts it, to send what comes to `place` to an address.
    pub(crate) fn start(
        self,
        from: Source,
        place: &str,
        directory: &Path,
        address: &str,
    ) -> io::Result<Process> {
        match self {
            Self::Bare(reads) => {
                let arguments = [&from.to_string(), place, address, &reads.to_string()];
                let mut relay = Process::role("bare", &arguments)?;
                relay.line()?;
                Ok(relay)
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
                // The last that it binds: it listens once there is an answer.
                let knock = directory.join("knock.socket");
                fs::write(
                    &config,
                    format!(
                        "[collector]\nsource = \"{source}\"\n\
                         [report]\ntelemetry = {telemetry}\n\
                         [admin]\nsocket = \"{admin}\"\n\
                         [[listener]]\naddress = \"{from}://{place}\"\n{limits}\
                         [[listener]]\naddress = \"unixstream://{knock}\"\n\
                         [[output]]\naddress = \"{address}\"\n{output}",
                        telemetry = load == Load::Full,
                        admin = directory.join("admin.socket").display(),
                        knock = knock.display(),
                    ),
                )?;
                Process::conntally(&config, &knock)
            }
        }
    }
}

/// Where a relay is to listen.
fn place(source: Source, directory: &Path) -> io::Result<String> {
    Ok(match source {
        Source::UnixStream | Source::UnixDatagram => socket_in(directory).display().to_string(),
        // Free now, and hardly taken by the time it is bound again.
        Source::Udp => UdpSocket::bind("127.0.0.1:0")?.local_addr()?.to_string(),
    })
}

fn socket_in(directory: &Path) -> PathBuf {
    directory.join("in.socket")
}

/// The last column of the line of the socket with this local port, 0 where there is none
/// (`proc_net_udp(5)`).
fn kernel_drops(place: &str) -> io::Result<u64> {
    let Some(port) = (place.rsplit_once(':')).and_then(|(_, port)| port.parse::<u16>().ok()) else {
        return Ok(0);
    };
    let port = format!(":{port:04X}");
    let table = fs::read_to_string("/proc/net/udp")?;
    let drops = table.lines().find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let is_it = columns.nth(1)?.ends_with(&port);
        is_it.then(|| columns.next_back()?.parse().ok())?
    });
    Ok(drops.unwrap_or(0))
}

/// A directory, a receiver and a relay that sends to it.
pub(crate) struct Setting {
    /// Where the relay listens.
    place: String,
    pub(crate) receiver: Process,
    pub(crate) relay: Process,
    // Last, as fields are dropped in order: nobody uses the directory any more.
    directory: TempDir,
}

impl Setting {
    fn start(relay: Relay, source: Source, sink: Sink) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        let mut receiver =
            Process::role("receive", &[&sink.to_string(), &path.display().to_string()])?;
        let address = receiver.line()?;
        let place = place(source, path)?;
        let relay = relay.start(source, &place, path, &address)?;
        Ok(Self {
            place,
            receiver,
            relay,
            directory,
        })
    }

    /// Between unix streams; `source` is the collector's, `load` what else it has to do.
    pub(crate) fn conntally(sink: Sink, source: &'static str, load: Load) -> io::Result<Self> {
        let relay = Relay::Conntally {
            source,
            load,
            output: "",
        };
        Self::start(relay, Source::UnixStream, sink)
    }

    /// The socket of a relay that listens on a unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        socket_in(self.directory.path())
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
                &workload.source.to_string(),
                &self.place,
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
            kernel_drops: kernel_drops(&self.place)?,
        })
    }
}

fn once(
    relay: Relay,
    workload: &Workload,
    connections: usize,
    messages: u64,
) -> io::Result<Outcome> {
    let mut setting = Setting::start(relay, workload.source, workload.sink)?;
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
        batched: Vec::new(),
        ours: Vec::new(),
    };
    let ours = Relay::Conntally {
        source: "off",
        load,
        output: "",
    };
    for _ in 0..rounds {
        let once = |relay| once(relay, workload, connections, messages);
        comparison.bare.push(once(Relay::Bare(Reads::Single))?);
        if workload.source != Source::UnixStream {
            comparison.batched.push(once(Relay::Bare(Reads::Batch))?);
        }
        comparison.ours.push(once(ours)?);
    }
    Ok(comparison)
}
