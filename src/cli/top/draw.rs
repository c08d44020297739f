//! The model on a screen of any size. What has no room is left out.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::model::{Model, Teller, View};
use super::rows::{CLIENTS, HOSTS, LISTENERS, OUTPUTS};
use super::sheet::{Column, GAP, Order, Placed, Tone, Value, place};
use crate::cli::columns::span;

/// The keys, the most wanted first.
const HELP: &str =
    "q quit  Tab view  / filter  s sort  r reverse  p pause  Up Down PgUp PgDn scroll";

/// What a terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Theme {
    /// Colours, beside bold and reverse.
    pub(super) color: bool,
    /// More than ASCII.
    pub(super) unicode: bool,
}

impl Theme {
    fn of(self, tone: Tone) -> Style {
        let color = match tone {
            Tone::Plain => return Style::new(),
            Tone::Attention => Color::Yellow,
            Tone::Alarm => Color::Red,
        };
        if self.color {
            Style::new().fg(color)
        } else {
            Style::new().add_modifier(Modifier::BOLD)
        }
    }
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws it all.
pub(super) fn draw(model: &Model, theme: Theme, frame: &mut Frame<'_>) {
    let mut canvas = Canvas {
        area: frame.area(),
        buffer: frame.buffer_mut(),
        theme,
    };
    canvas.line(&teller(model), BOLD);
    canvas.views(model);
    canvas.footer(model);
    let (order, offset) = (model.order(), model.offset);
    match model.view {
        View::Hosts => canvas.sheet(&HOSTS, &model.hosts(), Some(order), offset),
        View::Outputs => canvas.sheet(&OUTPUTS, &model.outputs(), Some(order), offset),
        View::Listeners => {
            let listeners = model.listeners();
            // Half of the rest is for the clients, however many listeners there are.
            let height = u16::try_from(listeners.len() + 1).unwrap_or(u16::MAX);
            let mut above = canvas.split(height.min(canvas.area.height / 2));
            above.sheet(&LISTENERS, &listeners, None, 0);
            canvas.line("", Style::new());
            canvas.sheet(&CLIENTS, &model.clients(), Some(order), offset);
        }
    }
}

/// Who tells, in a line.
fn teller(model: &Model) -> String {
    let mut text = match &model.teller {
        Teller::Unknown => "conntally top: waiting for the first look".to_owned(),
        Teller::Daemon(None) => "conntally, running".to_owned(),
        Teller::Daemon(Some(line)) => {
            let up = span(line.uptime_seconds);
            format!("conntally {}, pid {}, up {up}", line.version, line.pid)
        }
        Teller::Kernel(source) => format!("no daemon: the kernel's own tables, by {source}"),
    };
    if model.collector_paused {
        text.push_str(", collector paused");
    }
    if model.paused {
        text.push_str(" [PAUSED]");
    }
    text
}

/// What is left of the screen.
struct Canvas<'a> {
    area: Rect,
    buffer: &'a mut Buffer,
    theme: Theme,
}

impl Canvas<'_> {
    /// The next rows, apart.
    fn split(&mut self, height: u16) -> Canvas<'_> {
        let height = height.min(self.area.height);
        let above = Rect {
            height,
            ..self.area
        };
        self.area.y += height;
        self.area.height -= height;
        Canvas {
            area: above,
            buffer: self.buffer,
            theme: self.theme,
        }
    }

    /// Writes a text in the first row, from a column on; where the next is.
    fn put(&mut self, column: usize, text: &str, width: usize, style: Style) {
        let room = usize::from(self.area.width).saturating_sub(column);
        if self.area.height == 0 || room == 0 {
            return;
        }
        let Ok(column) = u16::try_from(column) else {
            return;
        };
        let (x, y) = (self.area.x + column, self.area.y);
        self.buffer.set_stringn(x, y, text, width.min(room), style);
    }

    /// Goes to the next row.
    fn next(&mut self) {
        if self.area.height > 0 {
            self.area.y += 1;
            self.area.height -= 1;
        }
    }

    fn line(&mut self, text: &str, style: Style) {
        self.put(0, text, usize::MAX, style);
        self.next();
    }

    /// The views, of which one is looked at, and the filter.
    fn views(&mut self, model: &Model) {
        let mut column = 0;
        for (number, view) in (1..).zip(View::ALL) {
            let text = format!(" {number} {} {} ", view.title(), model.count(view));
            let style = if view == model.view {
                REVERSED
            } else {
                Style::new()
            };
            self.put(column, &text, usize::MAX, style);
            column += text.chars().count();
        }
        if !model.filter.is_empty() && !model.typing {
            let text = format!(" filter: {}", model.filter);
            self.put(column, &text, usize::MAX, self.theme.of(Tone::Attention));
        }
        self.next();
        if self.area.height > 2 {
            self.next();
        }
    }

    /// The last rows: what went wrong, and the keys or the filter that is being typed.
    fn footer(&mut self, model: &Model) {
        let left_out = (model.hosts_left_out > 0 && model.view == View::Hosts).then(|| {
            format!(
                "{} more hosts, with fewer connections",
                model.hosts_left_out
            )
        });
        let remark = model.remark.as_ref().filter(|_| model.view != View::Hosts);
        let said = model.failure.as_ref().or(left_out.as_ref()).or(remark);
        let whole = self.area;
        if whole.height > 1 {
            let text = if model.typing {
                format!("filter: {}_", model.filter)
            } else {
                HELP.to_owned()
            };
            self.area.y = whole.bottom() - 1;
            self.put(0, &text, usize::MAX, Style::new());
            self.area = Rect {
                height: whole.height - 1,
                ..whole
            };
        }
        if let Some(said) = said
            && self.area.height > 2
        {
            let rest = self.area;
            self.area.y = rest.bottom() - 1;
            let style = match model.failure {
                Some(_) => self.theme.of(Tone::Alarm),
                None => self.theme.of(Tone::Attention),
            };
            self.put(0, said, usize::MAX, style);
            self.area = Rect {
                height: rest.height - 1,
                ..rest
            };
        }
    }

    /// A header and as many rows as there is room for, from `offset` on.
    fn sheet<T>(
        &mut self,
        columns: &[Column<T>],
        rows: &[&T],
        order: Option<Order>,
        offset: usize,
    ) {
        let room = usize::from(self.area.height).saturating_sub(1);
        // The last screen is a full one.
        let offset = offset.min(rows.len().saturating_sub(room));
        let shown = rows.get(offset..).unwrap_or_default();
        let shown = shown.get(..room).unwrap_or(shown);
        let placed = place(columns, shown, self.area.width.into());
        let sample = shown.first();
        self.header(&placed, sample, order);
        for row in shown {
            let mut at = 0;
            for Placed { column, width, .. } in &placed {
                let (text, style) = self.cell(&column.value(row), column.tone, *width);
                self.put(at, &text, *width, style);
                at += width + GAP;
            }
            self.next();
        }
    }

    /// The titles; the one that rows are ordered by stands out.
    fn header<T>(&mut self, placed: &[Placed<'_, T>], sample: Option<&&T>, order: Option<Order>) {
        let mut at = 0;
        for Placed {
            column,
            place,
            width,
        } in placed
        {
            let goes_right = sample
                .is_some_and(|row| matches!(column.value(row), Value::Number(_) | Value::Span(_)));
            let (title, width) = (column.title, *width);
            let text = if goes_right {
                format!("{title:>width$}")
            } else {
                format!("{title:width$}")
            };
            let is_order = order.is_some_and(|order| order.column == *place);
            let style = if is_order {
                BOLD.add_modifier(Modifier::UNDERLINED)
            } else {
                BOLD
            };
            self.put(at, &text, width, style);
            at += width + GAP;
        }
        self.next();
    }

    /// A cell's text, and how it looks.
    fn cell(&self, value: &Value<'_>, tone: Tone, width: usize) -> (String, Style) {
        let plain = Style::new();
        match value {
            Value::History(history) => (history.drawn(width, self.theme.unicode), plain),
            Value::Number(0) => (format!("{:>width$}", 0), plain),
            Value::Number(_) | Value::Span(_) => {
                (format!("{:>width$}", value.text()), self.theme.of(tone))
            }
            Value::Word(word) if word.chars().count() > width => {
                let mut cut: String = word.chars().take(width.saturating_sub(1)).collect();
                cut.push(if self.theme.unicode { '…' } else { '~' });
                (cut, plain)
            }
            Value::Word(word) => (word.to_string(), plain),
        }
    }
}
