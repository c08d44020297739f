//! The terminal: what it can show, taking it over and giving it back, and its keys.

use std::io::{self, IsTerminal as _, Stdout};
use std::thread;
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use tokio::sync::mpsc;

use super::draw::{Theme, draw};
use super::model::{Key, Model};
use crate::cli::CliError;
use crate::config::Environment;

/// How often it is looked whether keys are wanted no more.
const LOOK_UP: Duration = Duration::from_millis(250);
/// Keys that may wait.
const KEYS: usize = 16;

/// Terminals that show no colours, or whose fonts have no blocks (terminfo(5) names).
const MONOCHROME: [&str; 5] = ["vt100", "vt102", "vt220", "vt320", "ansi-mono"];
const PLAIN_FONT: [&str; 2] = ["linux", "ansi"];

/// Why nothing can be drawn.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum NoTerminal {
    #[error("top needs a terminal: {0} is none (conntally snapshot --watch needs none)")]
    Piped(&'static str),
    #[error(
        "top cannot draw on a terminal of type {0:?}: set TERM, or use conntally snapshot --watch"
    )]
    Dumb(String),
}

/// What this process's terminal can show.
pub(super) fn theme(environment: &Environment) -> Result<Theme, NoTerminal> {
    if !io::stdin().is_terminal() {
        return Err(NoTerminal::Piped("standard input"));
    }
    if !io::stdout().is_terminal() {
        return Err(NoTerminal::Piped("standard output"));
    }
    theme_of(|name| environment.get(name))
}

fn theme_of<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Theme, NoTerminal> {
    let kind = get("TERM").unwrap_or_default();
    if matches!(kind, "" | "dumb" | "unknown") {
        return Err(NoTerminal::Dumb(kind.to_owned()));
    }
    let has = |name| get(name).filter(|value| !value.is_empty());
    let locale = has("LC_ALL")
        .or_else(|| has("LC_CTYPE"))
        .or_else(|| has("LANG"));
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    let is_utf8 = locale.contains("utf-8") || locale.contains("utf8");
    let is_monochrome = MONOCHROME.contains(&kind);
    Ok(Theme {
        // <https://no-color.org>
        color: !is_monochrome && has("NO_COLOR").is_none(),
        unicode: is_utf8 && !is_monochrome && !PLAIN_FONT.contains(&kind),
    })
}

/// The terminal while it is ours. It is given back when this goes, however that comes.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    theme: Theme,
    _taken: Taken,
}

struct Taken;

impl Taken {
    fn take() -> io::Result<Self> {
        enable_raw_mode()?;
        // From here on there is something to give back.
        let taken = Self;
        crossterm::execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // A terminal without an alternate screen is left empty. Nothing is left to tell if
        // it is gone.
        let _gone = crossterm::execute!(
            io::stdout(),
            Clear(ClearType::All),
            MoveTo(0, 0),
            LeaveAlternateScreen,
            Show
        );
        let _gone = disable_raw_mode();
    }
}

impl Screen {
    pub(super) fn take(theme: Theme) -> Result<Self, CliError> {
        let taken = Taken::take().map_err(CliError::Output)?;
        let terminal =
            Terminal::new(CrosstermBackend::new(io::stdout())).map_err(CliError::Output)?;
        Ok(Self {
            terminal,
            theme,
            _taken: taken,
        })
    }

    pub(super) fn draw(&mut self, model: &Model) -> Result<(), CliError> {
        let drawn = self.terminal.draw(|frame| draw(model, self.theme, frame));
        drawn.map(drop).map_err(CliError::Output)
    }
}

/// What comes from the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Key(Key),
    /// It has another size.
    Resized,
}

/// Reads keys on a thread of its own, which ends soon after nobody wants them any more.
pub(super) fn inputs() -> Result<mpsc::Receiver<Input>, CliError> {
    let (sender, inputs) = mpsc::channel(KEYS);
    let read = move || {
        while !sender.is_closed() {
            let read = match event::poll(LOOK_UP) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            // The terminal is gone: so will be who waits for its keys.
            let Ok(read) = read else {
                return;
            };
            if let Some(input) = input(&read)
                && sender.blocking_send(input).is_err()
            {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("keys".to_owned());
    thread.spawn(read).map_err(CliError::Start)?;
    Ok(inputs)
}

fn input(event: &Event) -> Option<Input> {
    match event {
        Event::Key(key) => key_of(key).map(Input::Key),
        Event::Resize(..) => Some(Input::Resized),
        _ => None,
    }
}

fn key_of(event: &KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    if event.modifiers.contains(KeyModifiers::CONTROL) {
        return (event.code == KeyCode::Char('c')).then_some(Key::Interrupt);
    }
    Some(match event.code {
        KeyCode::Char(character) => Key::Char(character),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_can_show_is_read_from_the_environment() {
        let theme = |variables: &[(&str, &'static str)]| {
            let get = |name: &str| {
                let mut variables = variables.iter();
                variables
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| *value)
            };
            theme_of(get).map(|theme| (theme.color, theme.unicode)).ok()
        };
        let utf8 = ("LANG", "C.UTF-8");
        assert_eq!(theme(&[("TERM", "xterm"), utf8]), Some((true, true)));
        assert_eq!(theme(&[("TERM", "xterm")]), Some((true, false)));
        let latin = ("LC_ALL", "de_DE");
        assert_eq!(
            theme(&[("TERM", "xterm"), utf8, latin]),
            Some((true, false))
        );
        let no_color = ("NO_COLOR", "1");
        assert_eq!(
            theme(&[("TERM", "tmux"), utf8, no_color]),
            Some((false, true))
        );
        assert_eq!(theme(&[("TERM", "vt100"), utf8]), Some((false, false)));
        assert_eq!(theme(&[("TERM", "linux"), utf8]), Some((true, false)));
        for kind in ["", "dumb"] {
            assert_eq!(theme(&[("TERM", kind), utf8]), None);
        }
        assert_eq!(theme(&[utf8]), None);
    }

    #[test]
    fn keys_are_what_they_mean() {
        let key = |code, modifiers| key_of(&KeyEvent::new(code, modifiers));
        let none = KeyModifiers::NONE;
        let control = KeyModifiers::CONTROL;
        assert_eq!(key(KeyCode::Char('c'), control), Some(Key::Interrupt));
        assert_eq!(key(KeyCode::Char('x'), control), None);
        assert_eq!(key(KeyCode::Char('c'), none), Some(Key::Char('c')));
        assert_eq!(key(KeyCode::F(1), none), None);
        assert_eq!(input(&Event::Resize(1, 1)), Some(Input::Resized));
        assert_eq!(input(&Event::FocusLost), None);
    }
}
