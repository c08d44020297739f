//! Tables on a screen: which columns have room, in what order rows stand, and which of
//! them match a text.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::history::{History, LENGTH};

/// Between two columns.
pub(super) const GAP: usize = 1;
/// The least of a history that says anything.
const LEAST_HISTORY: usize = 8;
/// A name is cut no shorter than this for the sake of other columns.
const LEAST_NAME: usize = 20;

/// What stands in a cell.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Word(Cow<'a, str>),
    Number(u64),
    /// Seconds.
    Span(u64),
    History(&'a History),
}

impl Value<'_> {
    /// As it is printed, where it is text.
    pub(super) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Word(word) => Cow::Borrowed(word),
            Self::Number(number) => number.to_string().into(),
            Self::Span(seconds) => crate::cli::columns::span(*seconds).into(),
            Self::History(_) => "".into(),
        }
    }

    /// Words from a to z, numbers from the largest.
    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Word(one), Self::Word(other)) => one.cmp(other),
            (Self::Number(one), Self::Number(other)) | (Self::Span(one), Self::Span(other)) => {
                other.cmp(one)
            }
            _ => Ordering::Equal,
        }
    }
}

/// How a cell is told from others, where it holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Attention,
    Alarm,
}

/// A column of rows that are `T`.
#[derive(Debug)]
pub(super) struct Column<T> {
    pub(super) title: &'static str,
    pub(super) tone: Tone,
    /// Where there is little room, the highest go first; 0 stays.
    rank: u8,
    value: fn(&T) -> Value<'_>,
}

impl<T> Column<T> {
    pub(super) const fn new(title: &'static str, rank: u8, value: fn(&T) -> Value<'_>) -> Self {
        Self::toned(title, rank, Tone::Plain, value)
    }

    /// One whose cells stand out unless they are 0.
    pub(super) const fn toned(
        title: &'static str,
        rank: u8,
        tone: Tone,
        value: fn(&T) -> Value<'_>,
    ) -> Self {
        Self {
            title,
            tone,
            rank,
            value,
        }
    }

    pub(super) fn value<'a>(&self, row: &'a T) -> Value<'a> {
        (self.value)(row)
    }
}

/// A column that has room.
#[derive(Debug)]
pub(super) struct Placed<'a, T> {
    pub(super) column: &'a Column<T>,
    /// Its place among all columns.
    pub(super) place: usize,
    pub(super) width: usize,
}

/// Which columns have room in `width`, for these rows. One that is empty in all rows is
/// left out. Where there is too little, first the names are cut, then columns go; what is
/// left over goes to the history.
pub(super) fn place<'a, T>(
    columns: &'a [Column<T>],
    rows: &[&T],
    width: usize,
) -> Vec<Placed<'a, T>> {
    let wanted = |(place, column): (usize, &'a Column<T>)| {
        let widths = rows.iter().map(|row| match column.value(row) {
            Value::History(_) => LEAST_HISTORY,
            value => value.text().chars().count(),
        });
        let cells = widths.max().unwrap_or(0);
        let is_shown = cells > 0 || rows.is_empty();
        let width = cells.max(column.title.len());
        is_shown.then_some(Placed {
            column,
            place,
            width,
        })
    };
    let mut placed: Vec<_> = columns.iter().enumerate().filter_map(wanted).collect();
    let taken = |placed: &[Placed<'_, T>]| -> usize {
        placed.iter().map(|column| column.width + GAP).sum()
    };
    let over = taken(&placed).saturating_sub(width + GAP);
    if let Some(name) = placed.iter_mut().find(|placed| placed.column.rank == 0)
        && over > 0
    {
        let least = LEAST_NAME.max(width / 3).min(name.width);
        name.width = least.max(name.width.saturating_sub(over));
    }
    while taken(&placed) > width + GAP {
        let worst = placed
            .iter()
            .map(|placed| placed.column.rank)
            .max()
            .unwrap_or(0);
        if worst == 0 {
            break;
        }
        placed.retain(|placed| placed.column.rank != worst);
    }
    let left = (width + GAP).saturating_sub(taken(&placed));
    let is_history = |row: &&T, column: &Column<T>| matches!(column.value(row), Value::History(_));
    if let Some(row) = rows.first()
        && let Some(history) = placed
            .iter_mut()
            .find(|placed| is_history(row, placed.column))
    {
        history.width = (history.width + left).min(LENGTH);
    }
    placed
}

/// How rows are ordered: by a column, and whether the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) column: usize,
    pub(super) reversed: bool,
}

impl Order {
    pub(super) const fn by(column: usize) -> Self {
        Self {
            column,
            reversed: false,
        }
    }

    /// Sorts rows; equals by their first column.
    pub(super) fn sort<T>(self, columns: &[Column<T>], rows: &mut [&T]) {
        let Some(by) = columns.get(self.column) else {
            return;
        };
        rows.sort_by(|one, other| {
            let order = by.value(one).order(&by.value(other));
            let order = if self.reversed {
                order.reverse()
            } else {
                order
            };
            order.then_with(|| match columns.first() {
                Some(first) => first.value(one).order(&first.value(other)),
                None => Ordering::Equal,
            })
        });
    }
}

/// Whether one of a row's words has `text`, which is in lower case.
pub(super) fn matches<T>(columns: &[Column<T>], row: &T, text: &str) -> bool {
    let has = |column: &Column<T>| match column.value(row) {
        Value::Word(word) => word.to_lowercase().contains(text),
        _ => false,
    };
    text.is_empty() || columns.iter().any(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column<(&str, u64, History)>; 4] = [
        Column::new("NAME", 0, |row| Value::Word(row.0.into())),
        Column::new("NUMBER", 1, |row| Value::Number(row.1)),
        Column::new("HISTORY", 2, |row| Value::History(&row.2)),
        Column::new("EMPTY", 3, |_| Value::Word("".into())),
    ];

    #[test]
    fn columns_go_by_rank_where_there_is_no_room_and_a_history_takes_what_is_left() {
        let row = ("a", 7, History::default());
        let widths = |width| -> Vec<_> {
            let placed = place(&COLUMNS, &[&row], width);
            placed
                .iter()
                .map(|placed| (placed.place, placed.width))
                .collect()
        };
        assert_eq!(widths(80), [(0, 4), (1, 6), (2, LENGTH)]);
        assert_eq!(widths(20), [(0, 4), (1, 6), (2, 8)]);
        assert_eq!(widths(19), [(0, 4), (1, 6)]);
        assert_eq!(widths(10), [(0, 4)]);
        assert_eq!(widths(0), [(0, 4)]);
    }

    #[test]
    fn a_name_is_cut_before_a_column_goes_and_no_shorter_than_it_must() {
        let name = "an-output-whose-address-is-40-characters";
        let row = (name, 7, History::default());
        let widths = |width| -> Vec<_> {
            let placed = place(&COLUMNS, &[&row], width);
            placed.iter().map(|placed| placed.width).collect()
        };
        assert_eq!(widths(60), [40, 6, 12]);
        assert_eq!(widths(50), [34, 6, 8]);
        assert_eq!(widths(36), [20, 6, 8]);
        assert_eq!(widths(35), [20, 6]);
    }

    #[test]
    fn words_go_from_a_to_z_numbers_from_the_largest_and_equals_by_name() {
        let rows = [("b", 7), ("a", 7), ("c", 9)].map(|(name, n)| (name, n, History::default()));
        let order = |column, reversed| {
            let mut sorted: Vec<_> = rows.iter().collect();
            Order { column, reversed }.sort(&COLUMNS, &mut sorted);
            sorted.iter().map(|row| row.0).collect::<String>()
        };
        assert_eq!(order(1, false), "cab");
        assert_eq!(order(1, true), "abc");
        assert_eq!(order(0, false), "abc");
        assert_eq!(order(0, true), "cba");
        assert_eq!(order(99, false), "bac");
    }

    #[test]
    fn a_text_is_looked_for_in_words_alone() {
        let row = ("Größe", 7, History::default());
        for (text, expected) in [("", true), ("größ", true), ("7", false)] {
            assert_eq!(matches(&COLUMNS, &row, text), expected, "{text}");
        }
    }
}
