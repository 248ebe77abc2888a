//! Words for people and lines for machines: errors, warnings, hints, tables; colour only on terminals.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// Whether the reader of stdout went away, as `head` does.
static STDOUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// A colour of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Errors.
    Red,
    /// Warnings.
    Yellow,
    /// Hints.
    Cyan,
    /// Headings.
    Bold,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Red => "1;31",
            Self::Yellow => "1;33",
            Self::Cyan => "1;36",
            Self::Bold => "1",
        }
    }

    /// `text` in this colour where `on`.
    pub fn paint(self, text: &str, on: bool) -> String {
        if on { format!("\x1b[{}m{text}\x1b[0m", self.code()) } else { text.to_owned() }
    }
}

/// Whether stderr takes colour: a terminal that is not dumb, and no `NO_COLOR`.
pub fn colour_on_stderr() -> bool {
    colour_wanted() && io::stderr().is_terminal()
}

/// Whether stdout takes colour.
pub fn colour_on_stdout() -> bool {
    colour_wanted() && io::stdout().is_terminal()
}

fn colour_wanted() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Writes a line for people to stderr. A stderr that is gone is nobody's business.
pub fn tell(line: impl Display) {
    writeln!(io::stderr(), "{line}").ok();
}

/// Writes a line of data to stdout. A reader that went away ends the output, not the command.
///
/// # Errors
/// When stdout can't be written for another reason, such as a full disk.
pub fn say(line: impl Display) -> Result<()> {
    if stdout_closed() {
        return Ok(());
    }
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            STDOUT_CLOSED.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => Err(Error::failed("can't write to stdout").because(error)),
    }
}

/// Whether the reader of stdout went away.
pub fn stdout_closed() -> bool {
    STDOUT_CLOSED.load(Ordering::Relaxed)
}

/// Writes `value` as JSON on one line of stdout.
///
/// # Errors
/// As [`say`].
pub fn say_json(value: &serde_json::Value) -> Result<()> {
    say(value)
}

/// An error with its causes and hint, as it is shown.
pub fn error_text(error: &Error, colour: bool) -> String {
    let text = format!("{} {error}", Colour::Red.paint("error:", colour));
    match error.hint_text() {
        Some(hint) => format!("{text}\n\n{} {hint}", Colour::Cyan.paint("hint:", colour)),
        None => text,
    }
}

/// A warning, as it is shown.
pub fn warning_text(warning: &str, colour: bool) -> String {
    format!("{} {warning}", Colour::Yellow.paint("warning:", colour))
}

/// Writes each warning on a line of its own for people.
pub fn tell_warnings(warnings: &[String]) {
    warnings.iter().for_each(|warning| tell(warning_text(warning, colour_on_stderr())));
}

/// Columns aligned by their widest cell, two spaces apart; the first row is the heading.
pub fn table(rows: &[Vec<String>], colour: bool) -> String {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..n_columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut lines = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}", width = *width))
            .collect();
        let line = cells.join("  ").trim_end().to_owned();
        lines.push(if i == 0 { Colour::Bold.paint(&line, colour) } else { line });
    }
    lines.join("\n")
}

/// A stretch of time in its two largest units, such as `3m 12s`.
pub fn duration_text(time: std::time::Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A size in bytes in its nearest unit, such as `1.5 GiB`.
pub fn bytes_text(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{size:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_error_is_followed_by_a_blank_line_and_its_hint() {
        let error = Error::asked_wrongly("there is no method `dimo`").hint("did you mean `dino`?");
        let text = "error: there is no method `dimo`\n\nhint: did you mean `dino`?";
        assert_eq!(error_text(&error, false), text);
        assert!(error_text(&error, true).starts_with("\x1b[1;31merror:\x1b[0m there"));
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 2]| cells.iter().map(|&cell| cell.to_owned()).collect();
        let text = table(&[row(["name", "x"]), row(["a", "longer"])], false);
        assert_eq!(text, "name  x\na     longer");
    }

    #[test]
    fn times_and_sizes_are_short() {
        assert_eq!(duration_text(Duration::from_secs(59)), "59s");
        assert_eq!(duration_text(Duration::from_secs(3_725)), "1h 02m");
        assert_eq!(bytes_text(512), "512 B");
        assert_eq!(bytes_text(3 << 29), "1.5 GiB");
    }
}
