//! Where a mistake stands: file, line, and what to underline.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// A configuration file's text.
#[derive(Debug)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// One mistake, with its place where it has one.
#[derive(Debug)]
pub struct Wrong {
    /// What is wrong and what would be right, beginning with the key.
    pub message: String,
    /// Where it stands.
    pub place: Option<Place>,
}

/// A line of a file, and what to point at in it.
#[derive(Debug)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line's text.
    pub text: String,
    /// Characters to underline.
    pub width: usize,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(place) = &self.place else {
            return f.write_str(&self.message);
        };
        let number = place.line.to_string();
        let margin = " ".repeat(number.len());
        let indent = " ".repeat(place.column - 1);
        write!(
            f,
            "{}:{}:{}: {}\n{margin} |\n{number} | {}\n{margin} | {indent}{}",
            place.path.display(),
            place.line,
            place.column,
            self.message,
            place.text,
            "^".repeat(place.width)
        )
    }
}

/// Finds the file and line of a position in the merged tree.
pub(super) struct Sources<'a> {
    files: &'a [File],
    /// Each text behind as many spaces as the texts before it have bytes.
    pub(super) padded: Vec<String>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(files: &'a [File]) -> Self {
        let mut start = 0;
        let padded = files
            .iter()
            .map(|file| {
                let padded = " ".repeat(start) + &file.text;
                start = padded.len();
                padded
            })
            .collect();
        Self { files, padded }
    }

    pub(super) fn place(&self, span: Range<usize>) -> Option<Place> {
        let mut start = 0;
        for (file, padded) in self.files.iter().zip(&self.padded) {
            if span.start < padded.len() {
                return place_in(file, span.start.checked_sub(start)?, span.end - start);
            }
            start = padded.len();
        }
        None
    }
}

/// Behind the last character: where something more was expected.
pub(super) fn place_at_end(file: &File) -> Option<Place> {
    place_in(file, file.text.trim_end().len(), file.text.len())
}

fn place_in(file: &File, start: usize, end: usize) -> Option<Place> {
    let (before, _) = file.text.split_at_checked(start)?;
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = file.text.get(line_start..)?.lines().next().unwrap_or("");
    let column = before.get(line_start..)?.chars().count() + 1;
    let end = end.min(line_start + line.len()).max(start);
    let width = file
        .text
        .get(start..end)
        .map_or(1, |marked| marked.chars().count());
    Some(Place {
        path: file.path.clone(),
        line: before.matches('\n').count() + 1,
        column,
        text: line.to_owned(),
        width: width.max(1),
    })
}
