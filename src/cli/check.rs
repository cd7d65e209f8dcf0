//! `relay check`: every mistake of a configuration at once, and what is in force.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::user::{Judged, judge_as};
use crate::config::explain::explain;
use crate::config::reader::diagnostic::Diagnostics;
use crate::config::{Purpose, load_for};

/// What may follow `relay check`.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArguments {
    /// Say nothing but mistakes and warnings
    #[arg(long, short)]
    quiet: bool,
    /// Judge what this user can read and write (name or number); only root may name another
    /// [default: for root, the unit's user `relay` if it exists, else who asks]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Say what a key or a section is for, with its type, default and bounds, and check nothing
    #[arg(long, value_name = "KEY")]
    explain: Option<String>,
}

/// The configuration is good, but this machine lacks what it names. (2 is a wrong command line.)
const EXIT_NOT_HERE: u8 = 3;

/// Judges the configuration: exit status 0 if the server would start with it, 3 if it would on
/// another machine only, else 1.
pub(super) fn run(config: Option<&Path>, arguments: &CheckArguments) -> ExitCode {
    if let Some(name) = &arguments.explain {
        return explained(name);
    }
    let judged = match judge_as(arguments.user.as_deref()) {
        Ok(judged) => judged,
        Err(error) => {
            let _ = writeln!(io::stderr().lock(), "{error}");
            return ExitCode::FAILURE;
        }
    };
    let code = judge(
        config,
        &judged,
        arguments,
        &mut io::stdout().lock(),
        &mut io::stderr().lock(),
    );
    // A reader that closed its end has read enough.
    code.unwrap_or(ExitCode::SUCCESS)
}

/// Explains a key on standard output: exit status 1 if there is none of this name.
fn explained(name: &str) -> ExitCode {
    match explain(name) {
        Ok(text) => {
            // A reader that closed its end has read enough.
            let _ = io::stdout().lock().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(message) => {
            let _ = writeln!(io::stderr().lock(), "{message}");
            ExitCode::FAILURE
        }
    }
}

/// The verdict goes to `out`, as a comment above the effective configuration, so that the whole is
/// TOML; mistakes and warnings go to `err`.
fn judge(
    config: Option<&Path>,
    env: &Judged,
    arguments: &CheckArguments,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<ExitCode> {
    match load_for(Purpose::Check, config, env) {
        Ok(loaded) => {
            err.write_all(loaded.warnings.for_stderr().as_bytes())?;
            if !arguments.quiet {
                writeln!(
                    out,
                    "# {}: good{}{}. In force:",
                    loaded.source,
                    env.whom(),
                    tally(&loaded.warnings, ", ")
                )?;
                out.write_all(loaded.effective().as_bytes())?;
                out.flush()?;
            }
            if loaded.warnings.here() > 0 {
                writeln!(
                    err,
                    "The configuration is good, but the server would not start on this machine."
                )?;
                return Ok(EXIT_NOT_HERE.into());
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(mistakes) => {
            err.write_all(mistakes.for_stderr().as_bytes())?;
            writeln!(
                err,
                "The server would not start{}:{}.",
                env.whom(),
                tally(&mistakes, " ")
            )?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// "2 mistakes, 1 warning", behind `lead` unless there is nothing to tell.
fn tally(diagnostics: &Diagnostics, lead: &str) -> String {
    let (errors, warnings) = diagnostics.counts();
    let count = |number: usize, noun: &str| match number {
        0 => None,
        1 => Some(format!("1 {noun}")),
        _ => Some(format!("{number} {noun}s")),
    };
    let parts: Vec<String> = [count(errors, "mistake"), count(warnings, "warning")]
        .into_iter()
        .flatten()
        .collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!("{lead}{}", parts.join(", "))
    }
}
