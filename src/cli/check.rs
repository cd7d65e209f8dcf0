//! `relay check`: reports every error of a configuration at once, and prints the effective
//! settings.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::user::{Judged, judge_as};
use crate::config::explain::explain;
use crate::config::reader::diagnostic::Diagnostics;
use crate::config::{Purpose, load_for};

/// Arguments of `relay check`.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArguments {
    /// Print only errors and warnings
    #[arg(long, short)]
    quiet: bool,
    /// Check what this user may read and write (name or number); only root may name another
    /// [default: for root, the unit's user `relay` if it exists, else the current user]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Explain a key or a section (type, default, bounds), and check nothing
    #[arg(long, value_name = "KEY")]
    explain: Option<String>,
}

/// The configuration is valid, but this machine lacks an address or file that it names. (2 is a
/// wrong command line.)
const EXIT_NOT_HERE: u8 = 3;

/// Checks the configuration. Exit status 0: the server would start. 3: it would start on another
/// machine only. 1: it would not start.
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
    // A reader that closed its end needs no more.
    code.unwrap_or(ExitCode::SUCCESS)
}

/// Explains a key on standard output. Exit status 1: there is no such key.
fn explained(name: &str) -> ExitCode {
    match explain(name) {
        Ok(text) => {
            // A reader that closed its end needs no more.
            let _ = io::stdout().lock().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(message) => {
            let _ = writeln!(io::stderr().lock(), "{message}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the verdict to `out` as a comment above the effective configuration, so that the output
/// is TOML. Errors and warnings go to `err`.
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
                    "The configuration is valid, but the server would not start on this machine."
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

/// "2 errors, 1 warning" after `lead`, or nothing if there are none.
fn tally(diagnostics: &Diagnostics, lead: &str) -> String {
    let (errors, warnings) = diagnostics.counts();
    let count = |number: usize, noun: &str| match number {
        0 => None,
        1 => Some(format!("1 {noun}")),
        _ => Some(format!("{number} {noun}s")),
    };
    let parts: Vec<String> = [count(errors, "error"), count(warnings, "warning")]
        .into_iter()
        .flatten()
        .collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!("{lead}{}", parts.join(", "))
    }
}
