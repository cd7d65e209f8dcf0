//! Raw results as JSON lines, their medians, and the table.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use serde_json::Value;

use super::cases::{CASES, Case, Figure};
use super::plot;
use super::servers::{ALL, Server};

const FILE: &str = "results.jsonl";

/// Every result of the session.
pub(super) struct Results {
    file: File,
    lines: Vec<Value>,
}

/// One case of one server over all runs.
pub(super) struct Summary {
    /// Median of the case's figure.
    pub(super) median: f64,
    /// Half the range of the values, as a share of the median.
    spread: f64,
    runs: usize,
    loss: f64,
    p50: f64,
    p99: f64,
}

impl Results {
    /// Starts a session in `folder`, or continues the existing one.
    pub(super) fn open(folder: &Path, append: bool) -> Result<Self, String> {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let path = folder.join(FILE);
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let mut lines = Vec::new();
        if append && path.exists() {
            let text = fs::read_to_string(&path).map_err(|error| failed(&error))?;
            for line in text.lines() {
                lines.push(serde_json::from_str(line).map_err(|error| failed(&error))?);
            }
        }
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .append(append)
            .truncate(!append)
            .open(&path)
            .map_err(|error| failed(&error))?;
        Ok(Self { file, lines })
    }

    /// Stores a result, on disk at once.
    pub(super) fn add(&mut self, line: Value) -> Result<(), String> {
        writeln!(self.file, "{line}").map_err(|error| format!("{FILE}: {error}"))?;
        self.lines.push(line);
        Ok(())
    }

    /// Writes table and plots.
    pub(super) fn write(&self, folder: &Path) -> Result<(), String> {
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
        };
        write("table.md", self.table())?;
        write("ratios.svg", plot::ratios(self))?;
        write("costs.svg", plot::costs(self))
    }

    fn figures(&self, case: &Case, server: Server) -> impl Iterator<Item = &Value> {
        let mine = move |line: &&Value| line["case"] == case.name && line["server"] == server.name();
        self.lines.iter().filter(mine).map(|line| &line["figures"])
    }

    /// The summary of a case and a server.
    pub(super) fn summary(&self, case: &Case, server: Server) -> Option<Summary> {
        let figures: Vec<&Value> = self.figures(case, server).collect();
        let of = |name: &str| median(figures.iter().filter_map(|f| f[name].as_f64()).collect()).unwrap_or(0.0);
        let values: Vec<f64> = figures.iter().filter_map(|f| case.figure_of(f)).collect();
        let (least, most) = values
            .iter()
            .fold((f64::MAX, f64::MIN), |(a, b), &v| (a.min(v), b.max(v)));
        let runs = values.len();
        let median = median(values)?;
        Some(Summary {
            median,
            spread: (most - least) / 2.0 / median,
            runs,
            loss: of("loss"),
            p50: of("latency_p50_us"),
            p99: of("latency_p99_us"),
        })
    }

    /// The other server's figure divided by the relay's: the median over the runs. In each run the
    /// two were measured within seconds of each other, so the machine was mostly equally fast for
    /// both.
    pub(super) fn ratio(&self, case: &Case, server: Server) -> Option<f64> {
        let pairs = self.figures(case, server).zip(self.figures(case, Server::Relay));
        median(
            pairs
                .filter_map(|(other, relay)| Some(case.figure_of(other)? / case.figure_of(relay)?))
                .collect(),
        )
    }

    fn table(&self) -> String {
        let mut table = String::from(
            "| case | coturn ÷ relay | relay | coturn | turn-server | bare loop | with a pause | loss | p50 / p99 µs: relay | coturn |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        for case in CASES {
            let [relay, coturn, turn_server, bare, paused] = ALL.map(|server| self.summary(case, server));
            if relay.is_none() && coturn.is_none() {
                continue;
            }
            let ratio = self.ratio(case, Server::Coturn);
            let figure = |found: &Option<Summary>| {
                found.as_ref().map_or_else(
                    || "–".to_owned(),
                    |s| format!("{:.2} ± {:.0} % ({})", s.median, s.spread * 100.0, s.runs),
                )
            };
            let latency = |found: &Option<Summary>| match found {
                Some(s) if s.p50 > 0.0 => format!("{:.0} / {:.0}", s.p50, s.p99),
                _ => "–".to_owned(),
            };
            let loss = |found: &Option<Summary>| found.as_ref().map_or(0.0, |s| s.loss);
            let worst = loss(&relay).max(loss(&coturn));
            // Writing to a String cannot fail.
            let _ = writeln!(
                table,
                "| {} ({}) | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                case.title,
                case.figure.unit(),
                ratio.map_or_else(|| "–".to_owned(), |r| format!("**{r:.2}**")),
                figure(&relay),
                figure(&coturn),
                figure(&turn_server),
                figure(&bare),
                figure(&paused),
                if case.figure == Figure::Memory {
                    "–".to_owned()
                } else {
                    format!("{worst:.4}")
                },
                latency(&relay),
                latency(&coturn),
            );
        }
        table
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(upper, *values.get(middle - 1)?))
}
