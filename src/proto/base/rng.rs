//! The core's only source of randomness: a ChaCha12 stream from a seed that the caller provides.
//!
//! Relay ports, reservation tokens and transaction ids must be unpredictable (RFC 8656 §7.2, RFC
//! 6056), so the generator is cryptographic. Equal seeds give equal streams, so a run of the core
//! can be repeated byte for byte.

use core::fmt;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// A seeded cryptographic generator. Not `Clone`: two copies would produce the same "random" ports.
pub struct Rng(ChaCha12Rng);

impl Rng {
    /// The stream of `seed`.
    pub fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha12Rng::from_seed(seed))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Fills `out`.
    pub fn fill(&mut self, out: &mut [u8]) {
        self.0.fill_bytes(out);
    }

    /// A random array, for keys, tokens and transaction ids.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// A number below `n`, uniformly distributed; 0 if `n` is 0.
    pub fn below(&mut self, n: u32) -> u32 {
        // Lemire's multiply-and-reject. Without the rejection, small numbers would be slightly more
        // likely.
        let threshold = if n == 0 { 0 } else { n.wrapping_neg() % n };
        loop {
            let product = u64::from(self.0.next_u32()) * u64::from(n);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }
}

impl fmt::Debug for Rng {
    /// Prints nothing: the state predicts every future port and token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rng(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn equal_seeds_give_equal_streams_and_different_seeds_different_ones() {
        let draw = |seed| {
            let mut rng = Rng::new([seed; 32]);
            (rng.next_u64(), rng.below(1000), rng.array::<12>())
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn the_stream_is_chacha12() {
        // First 16 bytes of key stream for the all-zero key
        // (draft-strombergson-chacha-test-vectors-01, TC1, 12 rounds).
        let expected = [
            0x9b, 0xf4, 0x9a, 0x6a, 0x07, 0x55, 0xf9, 0x53, 0x81, 0x1f, 0xce, 0x12, 0x5f, 0x26, 0x83, 0xd5,
        ];
        assert_eq!(Rng::new([0; 32]).array::<16>(), expected);
    }

    #[test]
    fn below_stays_below_and_reaches_every_number_evenly() {
        let mut rng = Rng::new([1; 32]);
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.below(1), 0);
        let mut hits = [0_u32; 7];
        for _ in 0..70_000 {
            hits[rng.below(7) as usize] += 1;
        }
        // 10,000 each; six standard deviations are about 560.
        assert!(hits.iter().all(|n| n.abs_diff(10_000) < 560), "{hits:?}");
        assert!((0..1000).all(|_| rng.below(u32::MAX) < u32::MAX));
    }

    #[test]
    fn debug_output_tells_nothing_of_the_state() {
        assert_eq!(format!("{:?}", Rng::new([0xAB; 32])), "Rng(..)");
    }
}
