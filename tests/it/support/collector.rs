//! The collector's side of its commands, played: a journal that a test writes into, and
//! the admin socket in front of it.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use conntally::admin::{Admin, Context, Limits};
use conntally::collector::command::{
    self, Command, Commands, Description, Flushed, JournalCommand, TABLE_PAGE, TablePage, TableRow,
};
use conntally::collector::journal::{Ended, Journal};
use conntally::config::Config;
use conntally::flow::key::{FlowKey, KeyHasher};
use conntally::flow::{Direction, End, Protocol, Tuple};
use conntally::hosts::HostName;
use conntally::listen::Ends;
use conntally::telemetry::Telemetry;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Rows of the flow table that it shows.
pub(crate) const ROWS: u64 = 2 * TABLE_PAGE as u64 + 100;

type Act = Box<dyn FnOnce(&mut Played) + Send>;

/// What the thread owns.
#[derive(Default)]
pub(crate) struct Played {
    pub(crate) journal: Journal,
    /// What a flush announces.
    pub(crate) pending: Vec<Ended>,
    /// Whether it leaves the question what ended without an answer.
    pub(crate) is_deaf: bool,
    paused: bool,
}

impl Played {
    fn answer(&mut self, command: Command) {
        match command {
            Command::Journal(JournalCommand::Ask { .. }) if self.is_deaf => {}
            Command::Journal(command) => command.answer(&mut self.journal, Instant::now()),
            Command::Describe(reply) => {
                let description = Description {
                    source: "conntrack",
                    mode: "events",
                    why: "played".to_owned(),
                    paused: self.paused,
                    journal: self.journal.counts(),
                    ..Description::default()
                };
                reply.send(description).ok();
            }
            Command::Pause(reply) => {
                self.paused = true;
                reply.send(()).ok();
            }
            Command::Resume(reply) => {
                self.paused = false;
                reply.send(()).ok();
            }
            Command::Flush(reply) => {
                let announced = self
                    .pending
                    .iter()
                    .filter(|ended| self.journal.announce((*ended).clone()))
                    .count() as u64;
                let flushed = Flushed {
                    ended: 0,
                    announced,
                };
                reply.send(flushed).ok();
            }
            Command::Table { from, reply } => {
                let to = ROWS.min(from + TABLE_PAGE as u64);
                let row = |key| TableRow {
                    key: FlowKey(key),
                    row: 1,
                    state: "established",
                    flags: vec!["seen"],
                };
                let page = TablePage {
                    rows: (from..to).map(row).collect(),
                    next: (to < ROWS).then_some(to),
                };
                reply.send(page).ok();
            }
        }
    }

    fn run(mut self, mut commands: Commands, acts: &mpsc::Receiver<Act>) {
        let nap = Timespec {
            tv_sec: 0,
            tv_nsec: 2_000_000,
        };
        loop {
            loop {
                match acts.try_recv() {
                    Ok(act) => act(&mut self),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
            poll(
                &mut [PollFd::from_borrowed_fd(commands.as_fd(), PollFlags::IN)],
                Some(&nap),
            )
            .unwrap();
            while let Some(command) = commands.take() {
                self.answer(command);
            }
        }
    }
}

/// An admin socket that answers, in the thread's network namespace.
pub(crate) struct Rig {
    pub(crate) directory: TempDir,
    pub(crate) socket: PathBuf,
    pub(crate) telemetry: Telemetry,
    pub(crate) keys: KeyHasher,
    acts: mpsc::Sender<Act>,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Rig {
    pub(crate) fn start(config: &Config, limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.socket");
        let (handle, commands) = command::channel().unwrap();
        let (acts, to_do) = mpsc::channel();
        let played = thread::spawn(move || Played::default().run(commands, &to_do));
        let (keys, mut telemetry) = (KeyHasher::default(), Telemetry::default());
        telemetry.collectors.push((None, Arc::default()));
        let context = Context::new(config, handle, keys.clone(), telemetry.clone());
        let stop = CancellationToken::new();
        let (path, stopped) = (socket.clone(), stop.clone());
        let (bound, is_bound) = mpsc::channel();
        let admin = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let admin = Admin::open(&path, limits, None).await.unwrap();
                bound.send(()).unwrap();
                let ends = Ends {
                    stop: stopped,
                    ..Ends::default()
                };
                drop(admin.run(context, ends).await);
            });
        });
        is_bound.recv().unwrap();
        Self {
            directory,
            socket,
            telemetry,
            keys,
            acts,
            stop,
            threads: vec![played, admin],
        }
    }

    /// Does something on the collector's thread, and waits until it is done.
    pub(crate) fn act(&self, act: impl FnOnce(&mut Played) + Send + 'static) {
        let (done, is_done) = mpsc::channel();
        let act = Box::new(move |played: &mut Played| {
            act(played);
            done.send(()).unwrap();
        });
        self.acts.send(act).unwrap();
        is_done.recv().unwrap();
    }

    pub(crate) fn record(&self, ended: Vec<Ended>) {
        self.act(|played| {
            for ended in ended {
                played.journal.record(ended);
            }
        });
    }

    /// Stops it, and waits until it has.
    pub(crate) fn stop(self) -> TempDir {
        let Self {
            directory,
            acts,
            stop,
            threads,
            ..
        } = self;
        stop.cancel();
        drop(acts);
        for thread in threads {
            thread.join().unwrap();
        }
        directory
    }
}

/// A connection to port 443 that ended, and lasted too long to be rolled up.
pub(crate) fn ended(number: u16, end: End) -> Ended {
    let original = Tuple {
        src: [10, 99, 0, 1].into(),
        dst: [192, 0, 2, 7].into(),
        src_port: number,
        dst_port: 443,
    };
    let reply = Tuple {
        src: original.dst,
        dst: original.src,
        src_port: original.dst_port,
        dst_port: original.src_port,
    };
    Ended {
        at: 1_700_000_000_000,
        key: FlowKey(u64::from(number)),
        tuples: Some((original, reply)),
        host: HostName::Address(original.dst),
        address: Some(original.dst),
        protocol: Protocol::Tcp,
        zone: 0,
        direction: Direction::Outbound,
        port: Some(443),
        end,
        duration: Some(Duration::from_secs(60)),
        traffic: None,
    }
}
