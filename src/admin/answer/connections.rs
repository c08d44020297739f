//! Connections: those that are there, and for a client what ended since it last asked.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;

use hyper::Response;
use tokio::sync::oneshot;

use super::{Context, Refusal, give_up, of_lines, permit};
use crate::admin::body::{Body, Gone, Lines, lines, object};
use crate::admin::route::Question;
use crate::collector::CollectorError;
use crate::collector::command::CollectorHandle;
use crate::connections::line::Line;
use crate::connections::{Reader, Shown};

pub(super) async fn connections(
    context: &Arc<Context>,
    question: Question,
) -> Result<Response<Body>, Refusal> {
    let permit = permit(context)?;
    let collector = &context.collector;
    if question.flush {
        collector.flush().await?;
    }
    // First of all: what ends during the look is told behind it, and not missed.
    let hidden = match &question.client {
        Some(client) => collector.view(client).await?,
        None => HashSet::new(),
    };
    let (lines, body) = lines();
    let (opened, is_open) = oneshot::channel();
    let (looked, look) = oneshot::channel();
    let (asker, filter) = (Arc::clone(context), question.filter.clone());
    thread::Builder::new()
        .name("connections".to_owned())
        .spawn(move || {
            let mut lines = lines;
            let reader = Reader::open(&asker.config, asker.keys.clone());
            let (told, mut reader) = match reader {
                Ok(reader) => (Ok(()), Some(reader)),
                Err(error) => (Err(error), None),
            };
            // Who asked may have gone: then nobody needs the look.
            if opened.send(told).is_err() {
                return;
            }
            if let Some(reader) = &mut reader {
                let shown = reader.read(&filter, &hidden, &mut |connection| {
                    let line = Line::connection(connection);
                    lines.add_blocking(|out| object(out, &line))
                });
                let _gone = looked.send((shown, lines));
            }
        })
        .map_err(Refusal::Thread)?;
    is_open.await.map_err(|_| Refusal::Look)??;
    let collector = collector.clone();
    tokio::spawn(async move {
        // The thread has ended by then, or never began to look.
        if let Ok((shown, lines)) = look.await {
            // Nobody is there to be told if it fails.
            let _gone = conclude(&collector, question, shown, lines).await;
        }
        drop(permit);
    });
    Ok(of_lines(body))
}

/// What ended comes after what is there: a position moves only once the look went out.
async fn conclude(
    collector: &CollectorHandle,
    question: Question,
    shown: Result<Shown, CollectorError>,
    mut lines: Lines,
) -> Result<(), Gone> {
    let shown = match shown {
        Ok(shown) => shown,
        Err(error) => return give_up(lines, &error.to_string()).await,
    };
    let delta = match &question.client {
        None => None,
        Some(client) => {
            // Who has gone has lost nothing yet.
            lines.flush().await?;
            match collector.delta(client, &question.filter).await {
                Ok(delta) => Some(delta),
                Err(error) => return give_up(lines, &error.to_string()).await,
            }
        }
    };
    for record in delta.iter().flat_map(|delta| &delta.ended) {
        let line = Line::ended(record);
        lines.add(|out| object(out, &line)).await?;
    }
    let line = Line::end(shown, delta.as_ref());
    lines.add(|out| object(out, &line)).await?;
    lines.finish().await
}
