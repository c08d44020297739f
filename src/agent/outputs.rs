//! The outputs, and the ends that lines go into.

use std::sync::Arc;
use std::time::Duration;

use rustix::system::uname;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::running::finish;
use crate::config::{self, Config, Format, GroupMode, LineSource};
use crate::handover::{self, Inherited};
use crate::output::health::Health;
use crate::output::only::Only;
use crate::output::own::OwnListeners;
use crate::output::queue::Flusher;
use crate::output::shards::Shards;
use crate::output::spool::SpoolError;
use crate::output::turn::Turn;
use crate::output::{Branch, Ending, Fanout, Output, Way};
use crate::telemetry::{OutputCounters, Telemetry};

/// The outputs' tasks, and the ends that lines go into.
pub(super) struct Outputs {
    pub(super) tasks: JoinSet<Ending>,
    /// In the order of their counters.
    pub(super) healths: Vec<Arc<Health>>,
    /// In the same order.
    pub(super) flushers: Vec<Flusher>,
    leave: CancellationToken,
    /// Makes them leave what they hold, or count it as dropped.
    pub(super) give_up: CancellationToken,
    /// The agent's own lines, for outputs that get them at once.
    pub(super) at_once: Own,
    /// The agent's own lines, for outputs that get long reports in portions.
    pub(super) spread: Own,
    /// Lines of the listeners.
    pub(super) forwarded: Vec<Branch>,
}

/// The ends that the agent's own lines go into.
#[derive(Default)]
pub(super) struct Own {
    /// For formats with tags.
    pub(super) tagged: Fanout,
    /// For formats without.
    pub(super) untagged: Fanout,
}

impl Outputs {
    /// None yet; once they run, they leave what they hold if they are told to give up after
    /// this was cancelled.
    pub(super) fn new(leave: CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            healths: Vec::new(),
            flushers: Vec::new(),
            leave,
            give_up: CancellationToken::new(),
            at_once: Own::default(),
            spread: Own::default(),
            forwarded: Vec::new(),
        }
    }

    /// Leaves what they hold at once.
    pub(super) async fn leave(self) -> Vec<handover::Output> {
        self.leave.cancel();
        finish(self.tasks, &self.give_up, Duration::ZERO).await
    }

    /// Starts those that are configured.
    ///
    /// # Errors
    /// When a spool is of no use; those before it run.
    pub(super) fn start(
        &mut self,
        config: &Config,
        own: &Arc<OwnListeners>,
        telemetry: &mut Telemetry,
        inherited: &mut Inherited,
    ) -> Result<(), SpoolError> {
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
                self.flushers.push(inlet.flusher());
                ends.push((inlet, counters));
                self.healths.push(Arc::clone(&health));
                info!(address = %output.address, "sending to");
                let mut task = task.avoiding(Arc::clone(own)).telling(health);
                task = task.leaving(self.leave.clone());
                task.restore()?;
                if let Some(left) = inherited.take_output(&output.address.to_string()) {
                    task.go_on(&left);
                }
                self.tasks.spawn(task.run(self.give_up.clone()));
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
                    &mut self.spread
                } else {
                    &mut self.at_once
                };
                let fanout = if first.format.has_tags() {
                    &mut own.tagged
                } else {
                    &mut own.untagged
                };
                fanout.add(branch(LineSource::Collector));
            }
            if first.takes(LineSource::Listeners) {
                self.forwarded.push(branch(LineSource::Listeners));
            }
        }
        Ok(())
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
