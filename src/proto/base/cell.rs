//! Counters with one writer thread, which other threads may read at any time.

use core::ops::Deref;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter or gauge with one writer. Adding is a plain load and store, so it needs no locked
/// instruction.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Subtracts `n` (gauges).
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// Sets the value (gauges).
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The current value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A counter for each member of a closed set.
#[derive(Debug)]
pub struct Cells<const N: usize>([Cell; N]);

impl<const N: usize> Default for Cells<N> {
    fn default() -> Self {
        Self(core::array::from_fn(|_| Cell::default()))
    }
}

impl<const N: usize> Deref for Cells<N> {
    type Target = [Cell; N];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
