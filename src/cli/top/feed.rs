//! Where the numbers come from: a running daemon, else the kernel's table; a look at each
//! interval, on a thread of its own, since either may make it wait.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::admin::client::{self, ClientError};
use crate::admin::clients::{ClientLine, ClientsLine};
use crate::admin::snapshot::{HostLine, SnapshotLine};
use crate::admin::status::{DaemonLine, ListenerLine, OutputLine, StatusLine};
use crate::cli::snapshot::{lines, prepare};
use crate::cli::{CliError, runtime};
use crate::collector::{Count, Sources};
use crate::config::Config;

/// What one look found.
#[derive(Debug)]
pub(super) struct Look {
    /// When.
    pub(super) at: Instant,
    pub(super) seen: Seen,
    /// Connections by remote host.
    pub(super) hosts: Vec<HostLine<'static>>,
}

/// Where, and what is known there alone.
#[derive(Debug)]
pub(super) enum Seen {
    /// By a running daemon.
    Daemon(Box<Daemon>),
    /// In the kernel's tables, of which this one tells of connections.
    Kernel(&'static str),
}

/// What a daemon says of itself.
#[derive(Debug, Default)]
pub(super) struct Daemon {
    pub(super) process: Option<DaemonLine>,
    /// The last tick's number, which two looks may share; none before the first.
    pub(super) tick: Option<u64>,
    pub(super) paused: bool,
    pub(super) listeners: Vec<ListenerLine>,
    pub(super) outputs: Vec<OutputLine>,
    pub(super) clients: Vec<ClientLine>,
}

/// What a look came to; a failure in words.
pub(super) type Told = Result<Look, String>;

/// Where to look.
pub(super) enum Source {
    Daemon {
        socket: String,
        runtime: Runtime,
    },
    Kernel {
        sources: Box<Sources>,
        count: Box<Count>,
    },
}

impl Source {
    /// The daemon, if one answers; else the kernel's tables, and why not the daemon.
    pub(super) fn choose(config: &Config) -> Result<(Self, Option<ClientError>), CliError> {
        let (socket, runtime) = (config.admin.socket.clone(), runtime()?);
        match runtime.block_on(client::status(&socket)) {
            Ok(_) => Ok((Self::Daemon { socket, runtime }, None)),
            Err(
                error
                @ (ClientError::NotRunning(_) | ClientError::Off | ClientError::Permission(_)),
            ) => {
                let config = prepare(config.clone());
                let count = Count::new(&config);
                // It is not off: it was just prepared.
                match Sources::open(&config.collector, Arc::default())? {
                    Some(sources) => {
                        let (sources, count) = (Box::new(sources), Box::new(count));
                        Ok((Self::Kernel { sources, count }, Some(error)))
                    }
                    None => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    fn look(&mut self) -> Told {
        match self {
            Self::Daemon { socket, runtime } => runtime
                .block_on(ask(socket))
                .map_err(|error| error.to_string()),
            Self::Kernel { sources, count } => {
                let look = sources
                    .look(&mut **count)
                    .map_err(|error| error.to_string())?;
                let rows = count.tally().host_rows();
                Ok(Look {
                    at: Instant::now(),
                    seen: Seen::Kernel(look.source.as_str()),
                    hosts: lines(&rows, count.hosts())
                        .map(HostLine::into_owned)
                        .collect(),
                })
            }
        }
    }
}

/// Asks the daemon for all that is shown of it.
async fn ask(socket: &str) -> Result<Look, ClientError> {
    let mut daemon = Daemon::default();
    let mut hosts = Vec::new();
    let text = client::status(socket).await?.whole().await?;
    for line in client::read(&text) {
        match line?.1 {
            StatusLine::Daemon(line) => daemon.process = Some(line),
            StatusLine::Collector(line) => daemon.paused |= line.paused == Some(true),
            StatusLine::Output(line) => daemon.outputs.push(line),
            StatusLine::Listener(line) => daemon.listeners.push(line),
            StatusLine::Unknown => {}
        }
    }
    let text = client::clients(socket).await?.whole().await?;
    for line in client::read(&text) {
        if let ClientsLine::Client(line) = line?.1 {
            daemon.clients.push(line);
        }
    }
    let at = Instant::now();
    match client::snapshot(socket).await {
        Ok(answer) => {
            let text = answer.whole().await?;
            for line in client::read(&text) {
                match line?.1 {
                    SnapshotLine::Host(line) => hosts.push(line.into_owned()),
                    SnapshotLine::End(end) => daemon.tick = Some(end.tick),
                    SnapshotLine::Unknown => {}
                }
            }
        }
        // Before the first tick there is none.
        Err(ClientError::Refused { status: 503, .. }) => {}
        Err(error) => return Err(error),
    }
    let seen = Seen::Daemon(Box::new(daemon));
    Ok(Look { at, seen, hosts })
}

/// A thread that looks. It ends with this.
#[derive(Debug)]
pub(super) struct Feed {
    told: mpsc::Receiver<Told>,
    _stays: SyncSender<()>,
}

impl Feed {
    pub(super) fn start(source: Source, interval: Duration) -> Result<Self, CliError> {
        let (tell, told) = mpsc::channel(1);
        let (stays, ended) = sync_channel(0);
        thread::Builder::new()
            .name("feed".to_owned())
            .spawn(move || run(source, interval, &tell, &ended))
            .map_err(CliError::Start)?;
        Ok(Self {
            told,
            _stays: stays,
        })
    }

    /// What the next look came to; `None` once the thread has ended.
    pub(super) async fn next(&mut self) -> Option<Told> {
        self.told.recv().await
    }
}

fn run(mut source: Source, interval: Duration, tell: &mpsc::Sender<Told>, ended: &Receiver<()>) {
    loop {
        if tell.blocking_send(source.look()).is_err() {
            return;
        }
        match ended.recv_timeout(interval) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
