//! Which series of `connections` were sent of late, from one process to the next.
//!
//! It is text of some 40 bytes a series, 2 MB at [`MOST_SERIES`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::connections::Labels;
use crate::flow::{Direction, Protocol};
use crate::tally::SeriesState;

/// Beyond so many the others are forgotten: they get no 0 if they are gone just then.
const MOST_SERIES: usize = 50_000;

/// Series that were sent, by the kind of outputs and the network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct SentSeries(Vec<Of>);

/// Those of one network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Of {
    has_tags: bool,
    netns: Option<Box<str>>,
    series: Vec<Series>,
}

/// A series: host, direction and protocol by their numbers, port, state, and for how many
/// seconds it has been told as 0.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "Told", into = "Told")]
pub(super) struct Series {
    host: Box<str>,
    way: Option<(u8, u8)>,
    port: Option<u16>,
    state: Box<str>,
    pub(super) gone_seconds: Option<u64>,
}

/// The same without names, which would be most of the text.
type Told = (
    Box<str>,
    Option<(u8, u8)>,
    Option<u16>,
    Box<str>,
    Option<u64>,
);

impl From<Told> for Series {
    fn from((host, way, port, state, gone_seconds): Told) -> Self {
        Self {
            host,
            way,
            port,
            state,
            gone_seconds,
        }
    }
}

impl From<Series> for Told {
    fn from(series: Series) -> Self {
        let Series {
            host,
            way,
            port,
            state,
            gone_seconds,
        } = series;
        (host, way, port, state, gone_seconds)
    }
}

impl Series {
    pub(super) fn new(labels: &Labels, gone_seconds: Option<u64>) -> Self {
        let way = labels.way;
        Self {
            host: Box::from(&*labels.host),
            way: way.map(|(direction, protocol)| (direction as u8, protocol.number())),
            port: labels.port,
            state: labels.state.into(),
            gone_seconds,
        }
    }

    /// What its line is tagged with; `None` where another version of the program sent it that
    /// told more apart.
    pub(super) fn labels(&self) -> Option<Labels> {
        let way = match self.way {
            Some((direction, protocol)) => Some((
                *Direction::ALL.get(usize::from(direction))?,
                Protocol::from_number(protocol)?,
            )),
            None => None,
        };
        Some(Labels {
            host: Arc::from(&*self.host),
            way,
            port: self.port,
            state: SeriesState::named(&self.state)?,
        })
    }
}

impl SentSeries {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|of| of.series.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those of outputs with tags, or without, by network namespace.
    pub(super) fn of(&self, has_tags: bool) -> impl Iterator<Item = (Option<&str>, &[Series])> {
        let all = self.0.iter().filter(move |of| of.has_tags == has_tags);
        all.map(|of| (of.netns.as_deref(), &*of.series))
    }

    /// Adds those of one network namespace, unless they are known of others of the same kind:
    /// outputs of one kind are sent the same.
    pub(super) fn insert(&mut self, has_tags: bool, netns: Option<&str>, mut series: Vec<Series>) {
        let is_known = |of: &Of| of.has_tags == has_tags && of.netns.as_deref() == netns;
        if self.0.iter().any(is_known) {
            return;
        }
        let room = MOST_SERIES.saturating_sub(self.len());
        if let Some(forgotten) = series.len().checked_sub(room).filter(|&more| more > 0) {
            tracing::warn!(
                forgotten,
                "too many series: some get no 0 if they are gone just now"
            );
            series.truncate(room);
        }
        self.0.push(Of {
            has_tags,
            netns: netns.map(Box::from),
            series,
        });
    }

    /// Adds those that another reporter sent.
    pub fn add(&mut self, others: Self) {
        for Of {
            has_tags,
            netns,
            series,
        } in others.0
        {
            self.insert(has_tags, netns.as_deref(), series);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(host: u32, state: &'static str) -> Labels {
        Labels {
            host: format!("10.{}.{}.{}", host >> 16, host >> 8 & 0xff, host & 0xff).into(),
            way: Some((Direction::Inbound, Protocol::Tcp)),
            port: Some(443),
            state,
        }
    }

    #[test]
    fn a_series_is_read_as_it_was_written() {
        let plain = Labels {
            way: None,
            port: None,
            ..labels(1, "fin_wait")
        };
        for labels in [labels(1, "open"), labels(2, "unreplied"), plain] {
            let series = Series::new(&labels, Some(7));
            let text = serde_json::to_string(&series).unwrap();
            let read: Series = serde_json::from_str(&text).unwrap();
            assert_eq!(read, series, "{text}");
            assert_eq!(read.labels(), Some(labels));
        }
        let unknown = r#"["10.0.0.1",[0,250],null,"open",null]"#;
        let unknown: Series = serde_json::from_str(unknown).unwrap();
        assert_eq!(unknown.labels(), None);
    }

    #[test]
    fn there_are_no_more_than_there_may_be_and_none_twice() {
        let series: Vec<_> = (0..40_000)
            .map(|host| Series::new(&labels(host, "closing"), Some(119)))
            .collect();
        let mut sent = SentSeries::default();
        for _ in 0..2 {
            sent.insert(true, None, series.clone());
            sent.insert(false, None, series.clone());
            sent.insert(true, Some("blue"), series.clone());
        }
        assert_eq!(sent.len(), MOST_SERIES);
        let bytes = serde_json::to_vec(&sent).unwrap().len();
        assert!(bytes <= 3 << 20, "{bytes}");
        let text = serde_json::to_vec(&sent).unwrap();
        let read: SentSeries = serde_json::from_slice(&text).unwrap();
        assert_eq!(read, sent);
    }
}
