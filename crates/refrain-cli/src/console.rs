//! What a person watching the terminal sees: progress on stderr.

use std::io::{IsTerminal as _, Write as _, stderr};

/// Progress on stderr: on a terminal the last line is rewritten in place, elsewhere every line stays.
#[derive(Debug)]
pub(crate) struct Console {
    terminal: bool,
    status_shown: bool,
}

impl Console {
    pub(crate) fn new() -> Self {
        Self { terminal: stderr().is_terminal(), status_shown: false }
    }

    /// A line that stays.
    pub(crate) fn line(&mut self, text: &str) {
        self.clear();
        // Nobody to read progress is no reason to stop the work.
        let _ = writeln!(stderr(), "{text}");
    }

    /// A line that the next one replaces, on a terminal.
    pub(crate) fn status(&mut self, text: &str) {
        if self.terminal {
            // Without wrapping: the rest of a line too long for the terminal could not be taken back.
            let _ = write!(stderr(), "\r\x1b[K\x1b[?7l{text}\x1b[?7h");
            let _ = stderr().flush();
            self.status_shown = true;
        } else {
            self.line(text);
        }
    }

    /// A line that only a terminal shows, and replaces.
    pub(crate) fn passing(&mut self, text: &str) {
        if self.terminal {
            self.status(text);
        }
    }

    pub(crate) fn clear(&mut self) {
        if self.status_shown {
            let _ = write!(stderr(), "\r\x1b[K");
            self.status_shown = false;
        }
    }
}

/// `83 s` → `1m 23s`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "?".to_owned();
    }
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m {s:02}s"),
        (h, m, _) => format!("{h}h {m:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!([0.4, 59.4, 83.0, 3725.0].map(duration), ["0s", "59s", "1m 23s", "1h 02m"]);
        assert_eq!(duration(f64::INFINITY), "?");
    }
}
