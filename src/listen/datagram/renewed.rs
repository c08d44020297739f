//! The sockets of a datagram listener: one, and where the file of a unix socket was made anew,
//! those before it. Each is received from by itself.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Datagrams, Socket};
use crate::handover;
use crate::listen::intake::Stage;
use crate::listen::socket::{MOST_SOCKETS, SocketFile, changed};
use crate::listen::{Ends, left};

/// Bound sockets of one name, and what is done with what comes by them.
#[derive(Debug)]
pub(in crate::listen) struct Sockets {
    /// The newest last.
    pub(in crate::listen) bound: Vec<Socket>,
    /// Their name, with unix sockets.
    pub(in crate::listen) file: Option<SocketFile>,
    pub(in crate::listen) datagrams: Datagrams,
}

/// Those that are received from, and what each left in the end.
struct Receiving {
    tasks: JoinSet<(u64, Option<Socket>)>,
    /// How many were begun.
    begun: u64,
    /// Of those that go on.
    stops: VecDeque<CancellationToken>,
}

impl Receiving {
    fn begin(&mut self, datagrams: Datagrams, socket: Socket, stage: &Arc<Stage>, ends: &Ends) {
        let (number, stop) = (self.begun, ends.stop.child_token());
        self.begun += 1;
        self.stops.push_back(stop.clone());
        if self.stops.len() > MOST_SOCKETS
            && let Some(oldest) = self.stops.pop_front()
        {
            // It ends behind what has come by it.
            oldest.cancel();
        }
        let (leave, stage) = (ends.leave.clone(), Arc::clone(stage));
        let run = datagrams.run(socket, stage, Ends { stop, leave });
        self.tasks.spawn(async move { (number, run.await) });
    }

    /// Lets them all end; what they left, the newest last.
    async fn end(mut self) -> Vec<Socket> {
        self.stops.iter().for_each(CancellationToken::cancel);
        let mut left = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok((number, Some(socket))) = ended {
                left.push((number, socket));
            }
        }
        left.sort_by_key(|&(number, _)| number);
        left.into_iter().map(|(_, socket)| socket).collect()
    }
}

impl Sockets {
    /// Receives until the end, or until one fails.
    pub(in crate::listen) async fn run(
        self,
        stage: Arc<Stage>,
        ends: Ends,
    ) -> Option<handover::Listener> {
        let Self {
            bound,
            mut file,
            datagrams,
        } = self;
        let mut receiving = Receiving {
            tasks: JoinSet::new(),
            begun: 0,
            stops: VecDeque::new(),
        };
        for socket in bound {
            receiving.begin(datagrams.clone(), socket, &stage, &ends);
        }
        loop {
            let change = tokio::select! {
                biased;
                () = ends.stop.cancelled() => break,
                change = changed(&mut file, Socket::bind) => change,
                ended = receiving.tasks.join_next() => match ended {
                    // One too many, that was ended.
                    Some(Ok(_)) => continue,
                    _ => break,
                }
            };
            if let Some(socket) = stage.note_file(change) {
                receiving.begin(datagrams.clone(), socket, &stage, &ends);
            }
        }
        if !ends.leave.is_cancelled() {
            drop(file.take());
        }
        leave(receiving.end().await, file, &stage.listener)
    }

    /// Leaves what it has without having run.
    pub(in crate::listen) fn leave(self, address: &str) -> Option<handover::Listener> {
        leave(self.bound, self.file, address)
    }
}

/// Leaves the sockets, and what is queued in them, to the process that takes our place.
pub(in crate::listen) fn leave(
    sockets: Vec<Socket>,
    file: Option<SocketFile>,
    address: &str,
) -> Option<handover::Listener> {
    let mut descriptors = Vec::new();
    for socket in sockets {
        match socket.into_descriptor() {
            Ok(descriptor) => descriptors.push(descriptor),
            Err(error) => tracing::error!(listener = %address, %error, "the socket cannot be left"),
        }
    }
    let newest = descriptors.pop()?;
    Some(left(address.to_owned(), (newest, descriptors), file))
}
