//! Pauses between dialling: doubling between two bounds, with jitter.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    rng: ChaCha8Rng,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration, seed: u64) -> Self {
        let min = min.max(Duration::from_millis(1));
        Self { min, max: max.max(min), next: min, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// The next pause: between a half and the whole of the present step, so that many links to one server
    /// that came back do not dial in step; not below `asked` plus a random part of up to a half of it
    /// (SPEC H-7).
    pub(super) fn pause(&mut self, asked: Duration) -> Duration {
        let pause = self.next.mul_f64(self.rng.random_range(0.5..1.0));
        self.next = (self.next * 2).min(self.max);
        pause.max(asked.mul_f64(self.rng.random_range(1.0..1.5)))
    }

    /// The link was good: the next pause is short again.
    pub(super) fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_bound_and_begin_anew() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(50), ms(2_000), 7);
        for whole in [50, 100, 200, 400, 800, 1_600, 2_000, 2_000] {
            let pause = backoff.pause(Duration::ZERO);
            assert!(pause >= ms(whole) / 2 && pause <= ms(whole), "{pause:?} of {whole} ms");
        }
        backoff.reset();
        assert!(backoff.pause(Duration::ZERO) <= ms(50));
        let asked = backoff.pause(ms(700));
        assert!(asked >= ms(700) && asked <= ms(1_050), "{asked:?}");
    }
}
