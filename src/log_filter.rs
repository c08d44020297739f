//! What is logged, which can be changed while the process runs.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::reload;

/// A text is no filter, or there is nothing to filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// It cannot be read.
    #[error(
        "{filter:?} is not a filter ({source}): write levels by module, as in \"info,conntally::output=debug\""
    )]
    Unreadable {
        /// What was written.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The process has no log that could be filtered.
    #[error("this process has no log: {0}")]
    NoLog(#[from] reload::Error),
}

/// What is logged, and what was at the start.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Filters {
    /// Now.
    pub filter: String,
    /// At the start, and again at the next.
    pub initial: String,
}

/// The log's filter; all clones are one.
#[derive(Clone, Debug)]
pub struct LogFilter {
    handle: reload::Handle<Targets, Registry>,
    filters: Arc<Mutex<Filters>>,
}

impl Default for LogFilter {
    /// Of no log.
    fn default() -> Self {
        Self::new(Targets::new()).1
    }
}

impl LogFilter {
    /// What a log's layer is to be filtered by, and what changes that.
    #[must_use]
    pub fn new(initial: Targets) -> (reload::Layer<Targets, Registry>, Self) {
        let text = initial.to_string();
        let (layer, handle) = reload::Layer::new(initial);
        let filters = Filters {
            filter: text.clone(),
            initial: text,
        };
        let filters = Arc::new(Mutex::new(filters));
        (layer, Self { handle, filters })
    }

    /// What is logged.
    #[must_use]
    pub fn filters(&self) -> Filters {
        // A panic of another holder leaves whole texts behind.
        let filters = self.filters.lock();
        filters.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs by another filter until the next start; by the one of the start where it is
    /// empty. Returns what is logged then.
    ///
    /// # Errors
    /// When the text is no filter, or there is no log.
    pub fn set(&self, text: &str) -> Result<Filters, FilterError> {
        let mut filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        let text = if text.is_empty() {
            filters.initial.as_str()
        } else {
            text
        };
        let targets = parse(text)?;
        let text = targets.to_string();
        self.handle.reload(targets)?;
        filters.filter = text;
        Ok(filters.clone())
    }
}

/// Reads a filter: levels by module.
///
/// # Errors
/// When it is none.
pub fn parse(text: &str) -> Result<Targets, FilterError> {
    text.parse().map_err(|source| FilterError::Unreadable {
        filter: text.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::with_default;
    use tracing_subscriber::Layer as _;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn another_filter_holds_until_it_is_set_back() {
        let (layer, filter) = LogFilter::new("info".parse().unwrap());
        let log = tracing_subscriber::fmt::layer().with_writer(std::io::sink);
        let subscriber = tracing_subscriber::registry().with(log.with_filter(layer));
        with_default(subscriber, || {
            let debugs = || tracing::enabled!(tracing::Level::DEBUG);
            assert!(!debugs());
            let set = filter.set("debug,conntally::output=error").unwrap();
            assert_eq!(set, filter.filters());
            assert_eq!(set.initial, "info");
            assert!(set.filter.contains("conntally::output=error"));
            assert!(debugs());
            let wrong = filter.set("conntally=loud").unwrap_err();
            assert!(
                wrong
                    .to_string()
                    .contains("\"conntally=loud\" is not a filter")
            );
            assert!(debugs(), "it stays");
            assert_eq!(filter.set("").unwrap().filter, "info");
            assert!(!debugs());
        });
        assert!(matches!(filter.set("debug"), Err(FilterError::NoLog(_))));
    }
}
