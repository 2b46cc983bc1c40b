//! Random numbers for jitter.

use std::time::Duration;

#[cfg(feature = "conformance")]
use std::cell::RefCell;

#[cfg(feature = "conformance")]
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

#[cfg(feature = "conformance")]
thread_local! {
    static SEEDED_RNG: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// Seeds the jitter of this thread, for simulations.
#[cfg(feature = "conformance")]
pub fn seed(seed: u64) {
    SEEDED_RNG.with_borrow_mut(|rng| *rng = Some(StdRng::seed_from_u64(seed)));
}

/// Returns a random number from 0 to 1.
fn fraction() -> f64 {
    #[cfg(feature = "conformance")]
    if let Some(fraction) = SEEDED_RNG.with_borrow_mut(|rng| rng.as_mut().map(|rng| rng.random::<f64>())) {
        return fraction;
    }
    rand::random()
}

/// Returns a random duration from zero to `most`.
pub(crate) fn uniform_duration(most: Duration) -> Duration {
    most.mul_f64(fraction())
}

/// Returns a random number below `end`, or zero if `end` is zero.
pub(crate) fn uniform_index(end: usize) -> usize {
    let any = (fraction() * end as f64) as usize;
    any.min(end.saturating_sub(1))
}
