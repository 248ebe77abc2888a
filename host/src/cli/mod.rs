//! The command tree, and the only place that prints.

mod alloc;
mod asked;
mod data;
mod doctor;
mod embed;
mod export;
pub mod interrupt;
mod plugin;
mod probe;
pub mod progress;
mod report;
mod runs;
mod step;
mod time;
mod train;
pub mod words;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

use crate::error::did_you_mean;
use crate::{Error, Result};

/// Pre-train networks without labels; every method is a plugin
#[derive(Parser, Debug)]
#[command(name = "pretext", version, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 asked wrongly, 130 interrupted.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Train(train::Train),
    Probe(probe::Probe),
    Embed(embed::Embed),
    Export(export::Export),
    Report(report::Report),
    Runs(runs::Runs),
    Time(time::Time),
    Step(step::Step),
    Plugin(plugin::Plugin),
    Data(data::Data),
    Doctor(doctor::Doctor),
}

impl Command {
    fn run(&self) -> Result<()> {
        match self {
            Self::Train(train) => train.run(),
            Self::Probe(probe) => probe.run(),
            Self::Embed(embed) => embed.run(),
            Self::Export(export) => export.run(),
            Self::Report(report) => report.run(),
            Self::Runs(runs) => runs.run(),
            Self::Time(time) => time.run(),
            Self::Step(step) => step.run(),
            Self::Plugin(plugin) => plugin.run(),
            Self::Data(data) => data.run(),
            Self::Doctor(doctor) => doctor.run(),
        }
    }
}

/// Parses `arguments` (the program's name first), runs the command and turns its end into an exit code:
/// 0 done, 1 failed, 2 asked wrongly, 130 interrupted.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    alloc::keep_freed_blocks();
    remember_panics();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let result =
        catch_unwind(AssertUnwindSafe(|| cli.command.run())).unwrap_or_else(|_| Err(bug()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            words::tell(words::error_text(&error, words::colour_on_stderr()));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Help and version go to stdout; anything else is an error in the house's words.
fn usage(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let told = words::say(text.trim_end());
            return if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        ErrorKind::InvalidSubcommand => {
            let colour = words::colour_on_stderr();
            words::tell(words::error_text(&unknown_command(error), colour));
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => words::tell(text.trim_end()),
        _ => {
            let error = wrong_arguments(error, &text);
            words::tell(words::error_text(&error, words::colour_on_stderr()));
        }
    }
    ExitCode::from(2)
}

/// A hint at the help of the command that clap's `text` shows the usage of.
fn help_of(text: &str) -> String {
    let usage =
        text.lines().find_map(|line| line.trim().strip_prefix("Usage: ")).unwrap_or("pretext");
    let names = usage
        .split_whitespace()
        .take_while(|word| word.starts_with(|first: char| first.is_ascii_lowercase()));
    format!("`{} --help` lists what it takes", names.collect::<Vec<_>>().join(" "))
}

/// What clap says, in the house's form: its first sentence, and a hint.
fn wrong_arguments(error: &clap::Error, text: &str) -> Error {
    let said = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let said = said.collect::<Vec<_>>().join(" ").replace('\'', "`");
    let given = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(name)) if error.kind() == ErrorKind::UnknownArgument => name,
        _ => "",
    };
    let options = |command: &clap::Command| -> Vec<String> {
        command.get_opts().filter_map(|option| Some(format!("--{}", option.get_long()?))).collect()
    };
    let known: Vec<String> = Cli::command().get_subcommands().flat_map(options).collect();
    let hint = match did_you_mean(given, known.iter().map(String::as_str)) {
        // Another command's.
        Some(near) if near == given => format!("{}; `{given}` is another command's", help_of(text)),
        Some(near) => format!("did you mean `{near}`?"),
        None => help_of(text),
    };
    Error::asked_wrongly(said.trim_start_matches("error: ").to_owned()).hint(hint)
}

fn unknown_command(error: &clap::Error) -> Error {
    let given = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(name)) => name.as_str(),
        _ => "",
    };
    let tree = Cli::command();
    let names = tree.get_subcommands().flat_map(|command| {
        std::iter::once(command.get_name())
            .chain(command.get_subcommands().map(clap::Command::get_name))
    });
    let hint = match did_you_mean(given, names) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`pretext --help` lists the commands".to_owned(),
    };
    Error::asked_wrongly(format!("there is no command `{given}`")).hint(hint)
}

/// Where and why the last panic happened.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Keeps the text of a panic for [`bug`] instead of printing it; a panic that a caller catches, such as
/// one of a method, is told by that caller. With `RUST_BACKTRACE` set the usual text comes too.
fn remember_panics() {
    let usual = std::panic::take_hook();
    let loud = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    std::panic::set_hook(Box::new(move |panic| {
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string();
        if loud {
            usual(panic);
        }
    }));
}

fn bug() -> Error {
    let panic = PANIC.lock().unwrap_or_else(PoisonError::into_inner).replace('\n', " ");
    Error::failed("this is a bug in pretext")
        .because(panic)
        .hint("run it again with `RUST_BACKTRACE=1` and report what it says")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_misspelt_command_gets_its_neighbour() {
        let error = Cli::try_parse_from(["pretext", "docter"]).unwrap_err();
        let error = unknown_command(&error);
        assert_eq!(error.to_string(), "there is no command `docter`");
        assert_eq!(error.hint_text(), Some("did you mean `doctor`?"));
    }

    #[test]
    fn wrong_arguments_point_to_the_help_of_the_command_that_was_called() {
        let hint = |words: &[&str]| {
            let error = Cli::try_parse_from(words).unwrap_err();
            let text = error.render().to_string();
            wrong_arguments(&error, &text).hint_text().unwrap_or_default().to_owned()
        };
        let cases: [(&[&str], &str); 3] = [
            (&["pretext", "--nosuch"], "`pretext --help` lists what it takes"),
            (&["pretext", "doctor", "--nosuch"], "`pretext doctor --help` lists what it takes"),
            (&["pretext", "plugin", "info"], "`pretext plugin info --help` lists what it takes"),
        ];
        for (words, expected) in cases {
            assert_eq!(hint(words), expected);
        }
    }

    #[test]
    fn an_option_of_another_command_is_not_offered_in_its_own_place() {
        let hint = |option: &str| {
            let error = Cli::try_parse_from(["pretext", "train", option, "x"]).unwrap_err();
            let text = error.render().to_string();
            wrong_arguments(&error, &text).hint_text().unwrap_or_default().to_owned()
        };
        assert_eq!(hint("--resum"), "did you mean `--resume`?");
        assert!(hint("--out").ends_with("`--out` is another command's"), "{}", hint("--out"));
    }
}
