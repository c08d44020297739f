//! Connecting, sending, and what is done about failures: an output's course.

use std::io;
use std::sync::Arc;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{error, warn};

use super::transport::{Changed, ConnectError, SendError, Transport};
use super::{LOOK_INTERVAL, Output, SETTLED, STUCK};
use crate::telemetry::{LineDrop, OutputError};

/// How a connection ended.
enum Served {
    /// All was sent, and no more comes.
    Ended,
    /// It was lost.
    Lost(SendError),
    /// Another receiver stands at its path.
    Replaced,
    /// There can be no other.
    Gone,
}

impl From<Changed> for Served {
    fn from(changed: Changed) -> Self {
        match changed {
            Changed::Replaced => Self::Replaced,
            Changed::Dead(error) => Self::Lost(SendError::Lost(error)),
        }
    }
}

impl Output {
    /// Sends all there is, by one connection after the other. Returns why the rest is given
    /// up, if it is.
    pub(super) async fn deliver(&mut self, connection: &mut Option<Transport>) -> Option<LineDrop> {
        loop {
            let address = self.address.clone();
            let own = Arc::clone(&self.own);
            let health = Arc::clone(&self.health);
            let connected = health.within(STUCK, Transport::connect(&address, &own));
            match self.meanwhile(connected).await? {
                Ok(transport) => {
                    let transport = if self.is_refused {
                        transport.on_trial()
                    } else {
                        transport
                    };
                    let since = Instant::now();
                    let served = self.serve(connection.insert(transport)).await;
                    *connection = None;
                    match served {
                        Served::Ended => return None,
                        Served::Gone => return Some(LineDrop::Closed),
                        // At most once a look, and there is somebody.
                        Served::Replaced => continue,
                        Served::Lost(error) => self.note(&error),
                    }
                    if since.elapsed() >= SETTLED {
                        self.backoff.reset();
                    }
                }
                Err(error) => {
                    self.counters.errors.add(error.kind(), 1);
                    if !matches!(error, ConnectError::Own { .. }) {
                        self.outage.note(&address, &error);
                    } else if self.looped.permit().is_some() {
                        // Until the name leads elsewhere, which it hardly will.
                        error!(output = %address, %error, "nothing is sent");
                    }
                    health.is_away();
                }
            }
            self.outlet.widen();
            let pause = sleep(self.backoff.next_delay());
            self.meanwhile(pause).await?;
        }
    }

    fn note(&mut self, error: &SendError) {
        self.is_refused = matches!(error, SendError::Refused(_));
        if !self.is_refused {
            self.counters.errors.add(OutputError::Send, 1);
        }
        self.health.is_away();
        self.outage.note(&self.address, error);
    }

    /// Waits for `wanted`, and meanwhile for something to send. `None` when there
    /// is nothing, and will be nothing.
    async fn meanwhile<T>(&mut self, wanted: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(wanted);
        while self.chunk.is_none() {
            tokio::select! {
                biased;
                outcome = &mut wanted => return Some(outcome),
                chunk = self.outlet.recv() => self.chunk = Some(chunk?),
            }
        }
        Some(wanted.await)
    }

    /// The receiver is there, and takes what comes.
    fn is_connected(&mut self) {
        self.is_refused = false;
        self.health.is_well();
        self.outlet.narrow();
        self.counters.connects.add(1);
        self.outage.over(&self.address);
    }

    /// Sends by one connection for as long as it lasts, and tells what its end may cost.
    async fn serve(&mut self, transport: &mut Transport) -> Served {
        if !self.is_refused {
            self.is_connected();
        }
        let before = self.counters.sent.get();
        let served = self.send_all(transport).await;
        if let Some(chunk) = &mut self.chunk {
            chunk.rewind();
        }
        let error: Option<&io::Error> = match &served {
            Served::Lost(SendError::Lost(error)) => Some(error),
            Served::Replaced => None,
            _ => return served,
        };
        let at_risk = transport.lines_at_risk(error);
        self.counters.at_risk.add(at_risk);
        if at_risk == 0 && self.counters.sent.get() > before {
            // It read all that it was sent, and is but starting anew.
            self.backoff.reset();
        }
        served
    }

    async fn send_all(&mut self, transport: &mut Transport) -> Served {
        let path = self.address.path().map(ToOwned::to_owned);
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.reset();
        loop {
            if self.chunk.is_none() {
                tokio::select! {
                    biased;
                    error = transport.closed() => return Served::Lost(SendError::Lost(error)),
                    _ = looks.tick(), if path.is_some() => {
                        if let Some(changed) = path.as_deref().and_then(|path| transport.look(path)) {
                            return changed.into();
                        }
                        continue;
                    }
                    chunk = self.outlet.recv() => match chunk {
                        Some(chunk) => self.chunk = Some(chunk),
                        None => return Served::Ended,
                    },
                }
            }
            let sent = {
                let Some(chunk) = &mut self.chunk else {
                    continue;
                };
                let waits = self.throttle.waits();
                let sending = transport.send(chunk, &mut self.throttle, &self.counters);
                tokio::pin!(sending);
                loop {
                    tokio::select! {
                        biased;
                        sent = &mut sending => break Some(sent),
                        // What goes by a path may be given up half way.
                        _ = looks.tick(), if path.is_some() => break None,
                        () = sleep(STUCK) => {
                            if !waits.now() {
                                self.outlet.widen();
                                self.health.is_away();
                            } else if !self.outlet.merges() {
                                self.outlet.widen();
                            }
                        }
                    }
                }
            };
            let outcome = match (sent, &path) {
                (Some(sent), _) => sent,
                (None, Some(path)) => match transport.look(path) {
                    Some(changed) => return changed.into(),
                    None => continue,
                },
                (None, None) => continue,
            };
            match outcome {
                Ok(()) => self.pass_chunk(),
                Err(SendError::TooLarge) => self.drop_payload(),
                Err(SendError::Refused(error)) => {
                    self.counters.errors.add(OutputError::Refused, 1);
                    // It will be tried again, with what it holds.
                    self.health.is_away();
                    match transport.next_address().await {
                        Ok(true) => {}
                        Ok(false) => return Served::Lost(SendError::Refused(error)),
                        Err(error) => return Served::Lost(error),
                    }
                }
                Err(SendError::Gone) => return Served::Gone,
                Err(error @ SendError::Lost(_)) => return Served::Lost(error),
            }
        }
    }

    /// A chunk has gone.
    fn pass_chunk(&mut self) {
        if self.is_refused {
            self.is_connected();
        }
        self.outlet.narrow();
        self.health.is_well();
        if let Some(chunk) = self.chunk.take() {
            self.outlet.release(chunk);
        }
    }

    /// The transport does not take a payload of this size.
    fn drop_payload(&mut self) {
        let Some(chunk) = &mut self.chunk else {
            return;
        };
        let passed = chunk.pass_payload();
        let bytes = usize::try_from(passed.bytes).unwrap_or(usize::MAX);
        self.counters
            .drop_lines(LineDrop::MessageSize, passed.lines, bytes);
        if let Some(suppressed) = self.oversized.permit() {
            let (output, error, lines) = (&self.address, SendError::TooLarge, passed.lines);
            warn!(%output, %error, lines, suppressed, "dropped a payload");
        }
    }
}
