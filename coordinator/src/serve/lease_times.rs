//! How long leases take, from an order into its stream to the answer out of it: counts in steps of one percent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::Histogram;

/// Steps to each doubling of the time.
const STEPS: f64 = 64.0;

/// Doublings of a microsecond: the last step stands for 19 hours and all above.
const DOUBLINGS: usize = 36;

/// Counts of leases by what they took; clones count into the same.
#[derive(Clone, Debug)]
pub struct LeaseTimes {
    counts: Arc<[AtomicU64]>,
    also: Option<Histogram>,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self { counts: (0..=DOUBLINGS * STEPS as usize).map(|_| AtomicU64::new(0)).collect(), also: None }
    }
}

impl LeaseTimes {
    /// These; what leases take goes into `histogram`, too.
    pub(crate) fn and_in(self, histogram: Option<Histogram>) -> Self {
        Self { also: histogram, ..self }
    }

    /// Counts a lease.
    pub(super) fn add(&self, took: Duration) {
        self.also.iter().for_each(|histogram| histogram.observe(took.as_secs_f64()));
        let step = (STEPS * (took.as_secs_f64() * 1e6).max(1.0).log2()) as usize;
        if let Some(count) = self.counts.get(step.min(self.counts.len() - 1)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Forgets all leases.
    pub fn clear(&self) {
        self.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }

    /// How many leases there were.
    pub fn leases(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// What `share` of the leases took at most, to one percent; `None` without leases.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        let wanted = (all as f64 * share).ceil() as u64;
        let mut below = 0;
        let step = counts.iter().position(|count| {
            below += count;
            below >= wanted.max(1)
        })?;
        Some(Duration::from_secs_f64(((step as f64 + 0.5) / STEPS).exp2() / 1e6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_one_percent() {
        let times = LeaseTimes::default();
        assert_eq!(times.quantile(0.5), None);
        (1..=1000).for_each(|milliseconds| times.add(Duration::from_millis(milliseconds)));
        for (share, wanted) in [(0.0, 0.001), (0.5, 0.5), (0.99, 0.99), (1.0, 1.0)] {
            let found = times.quantile(share).unwrap().as_secs_f64();
            assert!((found / wanted - 1.0).abs() < 0.011, "{share}: {found}");
        }
        assert_eq!(times.leases(), 1000);
        times.clear();
        times.add(Duration::MAX);
        times.add(Duration::ZERO);
        assert!(times.quantile(0.1).unwrap() < Duration::from_micros(2));
        assert!(times.quantile(0.9).unwrap() > Duration::from_secs(60_000));
    }
}
