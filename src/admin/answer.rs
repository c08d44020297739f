//! Doing what a request asks for.

mod connections;
mod tables;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use self::connections::connections;
use self::tables::tables;
use super::body::{Answered, Body, Gone, Lines, lines, object};
use super::door::Stay;
use super::orders::Outcome;
use super::reload::ReloadError;
use super::route::{ROUTES, Route, Unroutable, route};
use super::{Context, clients, orders, snapshot, status};
use crate::collector::CollectorError;
use crate::collector::command::{CommandError, Description, Flushed};
use crate::collector::journal::JournalError;
use crate::connections::line::Line;
use crate::log_filter::FilterError;
use crate::telemetry::{AdminRefusal, Telemetry};

/// Seconds after which it may be worth asking again.
const RETRY: HeaderValue = HeaderValue::from_static("1");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const JSON_LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// Why a request is not answered as it wants to be.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("there is no such path")]
    Path,
    #[error("this path wants {0}")]
    Method(&'static str),
    #[error("{0}")]
    Request(String),
    #[error("another answer of this kind is being made: one dump runs at a time; try again")]
    Busy,
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Collector(#[from] CollectorError),
    #[error("cannot start a thread for the look: {0}")]
    Thread(#[source] io::Error),
    #[error("the look at the connections failed; the log says why")]
    Look,
    #[error("the first tick is not done; try again")]
    NoTick,
    #[error(transparent)]
    Reload(#[from] ReloadError),
    #[error(transparent)]
    Log(#[from] FilterError),
}

impl From<Unroutable> for Refusal {
    fn from(unroutable: Unroutable) -> Self {
        match unroutable {
            Unroutable::Path => Self::Path,
            Unroutable::Method(method) => Self::Method(method),
            Unroutable::Request(reason) => Self::Request(reason),
        }
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Path | Self::Command(CommandError::Journal(JournalError::UnknownClient(_))) => {
                StatusCode::NOT_FOUND
            }
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Request(_) | Self::Log(FilterError::Unreadable { .. }) => StatusCode::BAD_REQUEST,
            Self::Command(CommandError::Journal(_)) => StatusCode::TOO_MANY_REQUESTS,
            Self::Reload(ReloadError::Wrong(_)) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Reload(ReloadError::Refused(_)) => StatusCode::CONFLICT,
            Self::Busy | Self::NoTick | Self::Command(_) | Self::Reload(_) | Self::Log(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Collector(_) | Self::Thread(_) | Self::Look => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

#[derive(Serialize)]
struct RefusalObject<'a> {
    r#type: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "<[RouteObject]>::is_empty")]
    routes: &'a [RouteObject],
}

#[derive(Serialize)]
struct RouteObject {
    method: &'static str,
    path: &'static str,
    does: &'static str,
}

fn routes() -> [RouteObject; ROUTES.len()] {
    ROUTES.map(|(method, path, does)| RouteObject { method, path, does })
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    let routes = routes();
    let shown = match refusal {
        Refusal::Path => &routes[..],
        _ => &[],
    };
    let mut response = whole(&RefusalObject {
        r#type: "error",
        message: &refusal.to_string(),
        routes: shown,
    });
    *response.status_mut() = refusal.status();
    let headers = response.headers_mut();
    if let Refusal::Method(method) = refusal {
        headers.insert(ALLOW, HeaderValue::from_static(method));
    }
    if refusal.status() == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, RETRY);
    }
    response
}

/// A response that is one object.
fn whole(content: &impl Serialize) -> Response<Body> {
    let mut bytes = Vec::new();
    object(&mut bytes, content);
    let mut response = Response::new(Body::Whole(Some(Bytes::from(bytes))));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn of_lines(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, JSON_LINES);
    response
}

/// Answers a request; its body, if it has one, is not looked at.
pub(super) async fn answer<B>(
    context: Arc<Context>,
    request: Request<B>,
) -> Answered<Response<Body>> {
    let answered = match route(request.method(), request.uri()) {
        Ok(route) => {
            if let (Route::Reload, Some(stay)) = (&route, request.extensions().get::<Stay>()) {
                stay.over_the_stop();
            }
            perform(&context, route).await
        }
        Err(unroutable) => Err(unroutable.into()),
    };
    Ok(answered.unwrap_or_else(|refusal| {
        tracing::debug!(path = request.uri().path(), %refusal, "request refused");
        if matches!(refusal, Refusal::Busy) {
            context.telemetry.admin.refused.add(AdminRefusal::Busy, 1);
        }
        refuse(&refusal)
    }))
}

#[derive(Serialize)]
struct RoutesObject<'a> {
    r#type: &'static str,
    routes: &'a [RouteObject],
}

#[derive(Serialize)]
struct FlushedObject {
    r#type: &'static str,
    #[serde(flatten)]
    flushed: Flushed,
}

#[derive(Serialize)]
struct CollectorObject {
    r#type: &'static str,
    #[serde(flatten)]
    description: Description,
    counters: BTreeMap<String, u64>,
}

async fn perform(context: &Arc<Context>, route: Route) -> Result<Response<Body>, Refusal> {
    let collector = &context.collector;
    Ok(match route {
        Route::Routes => whole(&RoutesObject {
            r#type: "routes",
            routes: &routes(),
        }),
        Route::Status => {
            let lines = status::status(context).await;
            of_lines(Body::Whole(Some(lines.into())))
        }
        Route::Snapshot => {
            let latest = context.views.latest.borrow().clone();
            let tick = latest.tick().ok_or(Refusal::NoTick)?;
            let (lines, body) = lines();
            tokio::spawn(async move {
                // Nobody is there to be told if it fails.
                let _gone = snapshot::snapshot(latest, tick, lines).await;
            });
            of_lines(body)
        }
        Route::Connections(question) => return connections(context, question).await,
        Route::Clients => {
            let (lines, body) = lines();
            let context = Arc::clone(context);
            tokio::spawn(async move {
                // Nobody is there to be told if it fails.
                let _gone = clients::clients(context, lines).await;
            });
            of_lines(body)
        }
        Route::RemoveClient(client) => {
            collector.remove_client(&client).await?;
            whole(&Outcome::Done)
        }
        Route::Hide(client, key) => {
            collector.hide(&client, key).await?;
            whole(&Outcome::Done)
        }
        Route::Collector => whole(&CollectorObject {
            r#type: "collector",
            description: collector.describe().await?,
            counters: counters(&context.telemetry),
        }),
        Route::Pause => {
            collector.pause().await?;
            whole(&Outcome::Done)
        }
        Route::Resume => {
            collector.resume().await?;
            whole(&Outcome::Done)
        }
        Route::Flush => whole(&FlushedObject {
            r#type: "flushed",
            flushed: collector.flush().await?,
        }),
        Route::FlushOutputs => whole(&orders::flush(context)),
        Route::Reload => whole(&orders::reload(context).await?),
        Route::Log => whole(&orders::log(context)),
        Route::SetLog(filter) => whole(&orders::set_log(context, &filter)?),
        Route::Tables => {
            let permit = permit(context)?;
            let (lines, body) = lines();
            tokio::spawn(tables(collector.clone(), lines, permit));
            of_lines(body)
        }
    })
}

/// The collector's counters, with the reason in the name where there is one.
fn counters(telemetry: &Telemetry) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    telemetry.visit(&mut |sample| {
        if let Some(name) = sample.name.strip_prefix("collector.") {
            let mut name = name.to_owned();
            for (_, value) in sample.tags {
                name.push('.');
                name.push_str(value);
            }
            counters.insert(name, sample.value);
        }
    });
    counters
}

/// Dumps are made one at a time: each costs the kernel a walk through its table.
fn permit(context: &Context) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(&context.dumps)
        .try_acquire_owned()
        .map_err(|_| Refusal::Busy)
}

async fn give_up(mut lines: Lines, message: &str) -> Result<(), Gone> {
    let line = Line::Error {
        message: message.into(),
    };
    lines.add(|out| object(out, &line)).await?;
    lines.break_off().await
}
