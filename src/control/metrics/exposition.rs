//! Builds metric families in the shape the `prometheus` crate encodes.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::base::cell::Cell;
use crate::shard::counters::ShardCounters;

/// The sum of one cell over all shards.
pub(super) type ShardSum<'a> = dyn Fn(&dyn Fn(&ShardCounters) -> &Cell) -> u64 + 'a;

/// The families of one scrape, in order.
#[derive(Default)]
pub(super) struct Exposition(Vec<MetricFamily>);

impl Exposition {
    /// A value that only grows; its name ends in `_total`.
    pub(super) fn counter(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
        self.family(name, help, MetricType::COUNTER, samples);
    }

    /// A value that goes up and down.
    pub(super) fn gauge(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
        self.family(name, help, MetricType::GAUGE, samples);
    }

    /// How many values fell into each bucket. `buckets` holds upper bounds and counts that are not
    /// cumulative, `beyond` the count above the last bound.
    pub(super) fn histogram(&mut self, name: &str, help: &str, buckets: &[(f64, u64)], beyond: u64, sum: f64) {
        let mut count = 0;
        let cumulative = |&(bound, in_bucket): &(f64, u64)| {
            count += in_bucket;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        let buckets = buckets.iter().map(cumulative).collect();
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(count + beyond);
        histogram.set_sample_sum(sum);
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.push(name, help, MetricType::HISTOGRAM, vec![metric]);
    }

    fn family(&mut self, name: &str, help: &str, kind: MetricType, samples: impl IntoIterator<Item = Sample>) {
        let metrics = samples.into_iter().map(|sample| sample.into_metric(kind)).collect();
        self.push(name, help, kind, metrics);
    }

    fn push(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }

    pub(super) fn finish(self) -> Vec<MetricFamily> {
        self.0
    }
}

/// One value with its labels.
pub(super) struct Sample {
    labels: Vec<LabelPair>,
    value: f64,
}

impl Sample {
    /// Without labels.
    pub(super) fn plain(value: impl MetricValue) -> [Self; 1] {
        [Self {
            labels: Vec::new(),
            value: value.to_f64(),
        }]
    }

    /// With labels from closed sets.
    pub(super) fn with<const N: usize>(labels: [(&str, &str); N], value: impl MetricValue) -> Self {
        let pair = |(name, value): (&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        };
        Self {
            labels: labels.map(pair).into(),
            value: value.to_f64(),
        }
    }

    fn into_metric(self, kind: MetricType) -> Metric {
        let mut metric = Metric::from_label(self.labels);
        match kind {
            MetricType::COUNTER => {
                let mut counter = Counter::default();
                counter.set_value(self.value);
                metric.set_counter(counter);
            }
            _ => {
                let mut gauge = Gauge::default();
                gauge.set_value(self.value);
                metric.set_gauge(gauge);
            }
        }
        metric
    }
}

/// A value of the text format, which has only floating-point numbers, exact up to 2^53.
pub(super) trait MetricValue {
    fn to_f64(self) -> f64;
}

impl MetricValue for f64 {
    fn to_f64(self) -> f64 {
        self
    }
}

impl MetricValue for u64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "the format knows no integers; 2^53 bytes are 9 PB"
    )]
    fn to_f64(self) -> f64 {
        self as f64
    }
}

impl MetricValue for usize {
    fn to_f64(self) -> f64 {
        (self as u64).to_f64()
    }
}

impl MetricValue for bool {
    fn to_f64(self) -> f64 {
        f64::from(u8::from(self))
    }
}
