//! A terminal that tmux(1) plays: what stands on its screen, and keys for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::daemon::clean;
use super::netns::eventually;

/// A terminal, and what runs in it. Both are gone when this is.
pub(crate) struct Terminal {
    /// Of a tmux server of its own.
    socket: PathBuf,
}

impl Terminal {
    /// Runs a shell's commands in a terminal of 80×24, in the thread's network namespace.
    pub(crate) fn start(directory: &Path, script: &str) -> Self {
        let terminal = Self {
            socket: directory.join("tmux"),
        };
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            script,
        ]);
        terminal
    }

    fn command(&self) -> Command {
        let mut command = clean("tmux");
        command.arg("-S").arg(&self.socket).env("LANG", "C.UTF-8");
        command.stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn tmux(&self, arguments: &[&str]) -> String {
        let output = self.command().args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What stands on the screen; with `-e`, colours too.
    pub(crate) fn screen(&self, more: &[&str]) -> String {
        self.tmux(&[&["capture-pane", "-p"], more].concat())
    }

    /// Waits until the screen has this.
    #[track_caller]
    pub(crate) fn until(&self, part: &str) -> String {
        let mut screen = String::new();
        eventually(&format!("the screen shows {part:?}"), || {
            screen = self.screen(&[]);
            screen.contains(part)
        });
        screen
    }

    /// Presses keys, by tmux's names.
    pub(crate) fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let [columns, rows] = [columns, rows].map(|size| size.to_string());
        self.tmux(&["resize-window", "-x", &columns, "-y", &rows]);
    }

    /// Whether it is on its usual screen, with a cursor.
    pub(crate) fn is_usual(&self) -> bool {
        let state = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        state.trim() == "0 1"
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It fails where the server has ended already.
        self.command().arg("kill-server").status().ok();
    }
}
