//! Tables whose rows are all known before the first is printed.

use std::io::{self, Write};

/// What stands above a column, and to which side its cells go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Head {
    /// Cells go to the left.
    Words(&'static str),
    /// Cells go to the right.
    Number(&'static str),
}

/// Columns as wide as their widest cell. One whose cells are all empty is left out; an
/// empty cell beside others is a dash.
#[derive(Debug)]
pub(super) struct Columns<const N: usize> {
    heads: [Head; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Columns<N> {
    pub(super) const fn new(heads: [Head; N]) -> Self {
        Self {
            heads,
            rows: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        });
        let head = |column: usize| match self.heads[column] {
            Head::Words(text) | Head::Number(text) => text,
        };
        let mut line = |cell: &dyn Fn(usize) -> String| {
            let is_shown = |width: usize| width > 0 || self.rows.is_empty();
            let all = widths.iter().enumerate();
            let shown = all.filter(|&(_, &width)| is_shown(width));
            let cells: Vec<_> = shown
                .map(|(column, &width)| {
                    let (cell, width) = (cell(column), width.max(head(column).len()));
                    match self.heads[column] {
                        Head::Words(_) => format!("{cell:width$}"),
                        Head::Number(_) => format!("{cell:>width$}"),
                    }
                })
                .collect();
            writeln!(out, "{}", cells.join("  ").trim_end())
        };
        line(&|column| head(column).to_owned())?;
        for row in &self.rows {
            line(&|column| match row[column].as_str() {
                "" => "-".to_owned(),
                cell => cell.to_owned(),
            })?;
        }
        Ok(())
    }
}

/// A time in its two largest units.
pub(super) fn span(seconds: u64) -> String {
    let [days, hours, minutes] = [86_400, 3_600, 60].map(|unit| seconds / unit);
    if days > 0 {
        format!("{days}d {}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h {}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m {}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_and_empty_ones_are_left_out() {
        let mut columns = Columns::new([
            Head::Words("NAME"),
            Head::Number("N"),
            Head::Words("NOTHING"),
            Head::Words("LAST"),
        ]);
        assert!(columns.is_empty());
        for row in [["größer als", "7", "", ""], ["b", "1000", "", "x"]] {
            columns.add(row.map(str::to_owned));
        }
        let mut out = Vec::new();
        columns.write(&mut out).unwrap();
        let expected = "\
NAME           N  LAST
größer als     7  -
b           1000  x
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn without_rows_there_is_still_a_header() {
        let mut out = Vec::new();
        let columns = Columns::new([Head::Words("A"), Head::Number("B")]);
        columns.write(&mut out).unwrap();
        assert_eq!(out, b"A  B\n");
    }

    #[test]
    fn a_time_has_its_two_largest_units() {
        let spans = [0, 59, 61, 3_599, 3_600, 86_399, 90_000, 8_640_000].map(span);
        let expected = [
            "0s", "59s", "1m 1s", "59m 59s", "1h 0m", "23h 59m", "1d 1h", "100d 0h",
        ];
        assert_eq!(spans, expected);
    }
}
