//! The one place where chance comes in: jitter.

use std::time::Duration;

#[cfg(feature = "conformance")]
use std::cell::RefCell;

#[cfg(feature = "conformance")]
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

#[cfg(feature = "conformance")]
thread_local! {
    static DETERMINED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// From now on the jitter that this thread draws follows from the seed: for simulations.
#[cfg(feature = "conformance")]
pub fn determine(seed: u64) {
    DETERMINED.with_borrow_mut(|rng| *rng = Some(StdRng::seed_from_u64(seed)));
}

/// Anything from 0 to 1.
fn fraction() -> f64 {
    #[cfg(feature = "conformance")]
    if let Some(fraction) = DETERMINED.with_borrow_mut(|rng| rng.as_mut().map(|rng| rng.random::<f64>())) {
        return fraction;
    }
    rand::random()
}

/// Anything from nothing to `most`.
pub(crate) fn up_to(most: Duration) -> Duration {
    most.mul_f64(fraction())
}

/// Any number below `end`; zero, if that is zero.
pub(crate) fn below(end: usize) -> usize {
    let any = (fraction() * end as f64) as usize;
    any.min(end.saturating_sub(1))
}
