//! Figures as a table and as JSON.

use core::time::Duration;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

use super::process::Usage;

/// Latencies up to a minute, in nanoseconds, to three digits.
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Self {
        // Bounds and precision are within the histogram's range.
        Self(Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds"))
    }

    pub(super) fn record(&mut self, latency: Duration) {
        self.0
            .saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn merge(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.0.add(&other.0);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    fn micros(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// One measurement: named figures in their order.
pub(super) struct Report(Vec<(&'static str, Value, String)>);

impl Report {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a word or a sentence.
    pub(super) fn text(&mut self, name: &'static str, text: &str) -> &mut Self {
        self.0.push((name, text.into(), text.to_owned()));
        self
    }

    /// Adds a whole number.
    pub(super) fn count(&mut self, name: &'static str, count: u64) -> &mut Self {
        self.0.push((name, count.into(), count.to_string()));
        self
    }

    /// Adds a number with `digits` after the point.
    pub(super) fn number(&mut self, name: &'static str, number: f64, digits: usize) -> &mut Self {
        let text = format!("{number:.digits$}");
        let value = text.parse::<f64>().unwrap_or(number);
        self.0.push((name, value.into(), text));
        self
    }

    /// Adds percentiles, unless nothing was recorded.
    pub(super) fn latencies(&mut self, latencies: &Latencies) -> &mut Self {
        if latencies.0.is_empty() {
            return self;
        }
        self.number("latency_p50_us", latencies.micros(0.5), 1)
            .number("latency_p95_us", latencies.micros(0.95), 1)
            .number("latency_p99_us", latencies.micros(0.99), 1)
            .number("latency_max_us", latencies.micros(1.0), 1)
    }

    /// Adds the server's CPU time per `what`, and its memory.
    pub(super) fn usage(
        &mut self,
        name: &'static str,
        before: Usage,
        after: Usage,
        count: u64,
        unit: Duration,
    ) -> &mut Self {
        let cpu = after.cpu.saturating_sub(before.cpu);
        if count > 0 {
            let each = cpu.as_secs_f64() / unit.as_secs_f64() / count as f64;
            self.number(name, each, 1);
        }
        self.number("server_cpu_s", cpu.as_secs_f64(), 3)
            .count("server_rss_bytes", after.resident)
            .count("server_fds", after.descriptors)
    }

    /// One object on one line.
    pub(super) fn json(&self) -> String {
        let object: Map<String, Value> = self
            .0
            .iter()
            .map(|(name, value, _)| ((*name).to_owned(), value.clone()))
            .collect();
        format!("{}\n", Value::Object(object))
    }

    /// Two columns.
    pub(super) fn table(&self) -> String {
        let width = self.0.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        let mut table = String::new();
        for (name, _, text) in &self.0 {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{name:<width$}  {text}");
        }
        table
    }
}

/// Shows the progress of a measurement on a terminal; silent elsewhere.
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new(what: &'static str, total: u64) -> Self {
        let bar = ProgressBar::new(total);
        // The template is constant, so the first test would find an error in it.
        if let Ok(style) = ProgressStyle::with_template("{msg:<12} {bar:40} {pos}/{len} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(what);
        Self(bar)
    }

    pub(super) fn at(&self, position: u64) {
        self.0.set_position(position);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_table_or_one_object_with_the_same_figures() {
        let mut latencies = Latencies::new();
        for micros in 1..=100 {
            latencies.record(Duration::from_micros(micros));
        }
        let mut report = Report::new();
        report
            .text("mode", "media")
            .count("packets", 7)
            .number("loss", 0.25, 3)
            .latencies(&latencies);
        let object: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(object["mode"], "media");
        assert_eq!(object["packets"], 7);
        assert_eq!(object["loss"], 0.25);
        assert!(
            (object["latency_p50_us"].as_f64().unwrap() - 50.0).abs() < 1.0,
            "{object}"
        );
        assert!(
            (object["latency_max_us"].as_f64().unwrap() - 100.0).abs() < 1.0,
            "{object}"
        );
        assert!(
            report.table().lines().any(|line| line == "packets         7"),
            "{}",
            report.table()
        );
    }
}
