//! Other load on the machine during a measurement, from `/proc/stat`: shares of the time, per core.

use std::fs;

/// How busy the cores were.
#[derive(Debug)]
pub(super) struct Load {
    /// Share of each core's time that was not idle.
    pub(super) cores: Vec<f64>,
    /// Share of all time that the host gave to other guests.
    pub(super) stolen: f64,
}

/// Ticks of one core: busy, stolen, all.
type Ticks = [u64; 3];

impl Load {
    /// The load while `work` runs.
    pub(super) fn during<T>(work: impl FnOnce() -> T) -> (Self, T) {
        let before = read();
        let result = work();
        let after = read();
        let (mut cores, mut stolen, mut all) = (Vec::new(), 0, 0);
        for (then, now) in before.iter().zip(&after) {
            let [busy, lost, total] = [0, 1, 2].map(|i| now[i].saturating_sub(then[i]));
            cores.push((busy as f64 / total.max(1) as f64 * 1000.0).round() / 1000.0);
            stolen += lost;
            all += total;
        }
        let stolen = stolen as f64 / all.max(1) as f64;
        (Self { cores, stolen }, result)
    }

    pub(super) fn busiest(&self) -> f64 {
        self.cores.iter().copied().fold(0.0, f64::max)
    }
}

fn read() -> Vec<Ticks> {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "))
        .map(|line| {
            // user nice system idle iowait irq softirq steal
            let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
            let of = |index: usize| ticks.get(index).copied().unwrap_or(0);
            let all = ticks.iter().take(8).sum();
            [all - of(3) - of(4), of(7), all]
        })
        .collect()
}
