//! The comparison of two implementations of an operation.
//!
//! Absolute times vary by a factor of two from run to run, but ratios within one run do not. So the operations
//! alternate one by one, A B, B A, A B, and each block of them gives one ratio of medians.

use std::time::{Duration, Instant};

/// The amount of work to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Whether to check only that everything runs.
    pub(crate) quick: bool,
    /// The largest size to measure, if there are several.
    pub(crate) most: usize,
}

impl Effort {
    /// Scales the number of fast operations, or of records, to this effort.
    pub(crate) fn of(self, full: usize) -> usize {
        if self.quick { (full / 20).max(2) } else { full }
    }

    /// Scales the number of blocks to this effort. Each block gives one ratio.
    pub(crate) fn blocks(self, full: usize) -> usize {
        if self.quick { 2 } else { full }
    }
}

/// The time of each operation in seconds, by block.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) ours: Vec<Vec<f64>>,
    pub(crate) theirs: Vec<Vec<f64>>,
}

/// The quartiles of a set of values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Measured {
    /// Converts the times of operations that each did `many` things to the time of one thing.
    pub(crate) fn each(mut self, many: usize) -> Self {
        for seconds in self.ours.iter_mut().chain(&mut self.theirs).flatten() {
            *seconds /= many as f64;
        }
        self
    }

    /// Returns the median of all our operations, and of all of theirs.
    pub(crate) fn medians(&self) -> (f64, f64) {
        let flat = |blocks: &[Vec<f64>]| median(blocks.iter().flatten().copied());
        (flat(&self.ours), flat(&self.theirs))
    }

    /// Returns the ratio of our time to theirs: its spread over the blocks.
    pub(crate) fn ratio(&self) -> Spread {
        let blocks = self.ours.iter().zip(&self.theirs);
        spread(blocks.map(|(ours, theirs)| median(ours.iter().copied()) / median(theirs.iter().copied())))
    }
}

/// Runs our operation and theirs in turn, in `blocks` blocks of `each` pairs, after a warm-up that does not count. Each
/// operation returns the time to record.
pub(crate) async fn pairs(
    blocks: usize,
    each: usize,
    mut ours: impl AsyncFnMut() -> Duration,
    mut theirs: impl AsyncFnMut() -> Duration,
) -> Measured {
    for _ in 0..each.div_ceil(10) {
        ours().await;
        theirs().await;
    }
    let mut measured = Measured::default();
    for block in 0..blocks {
        let (mut of_ours, mut of_theirs) = (Vec::with_capacity(each), Vec::with_capacity(each));
        for pair in 0..each {
            if (block + pair) % 2 == 0 {
                of_ours.push(ours().await.as_secs_f64());
                of_theirs.push(theirs().await.as_secs_f64());
            } else {
                of_theirs.push(theirs().await.as_secs_f64());
                of_ours.push(ours().await.as_secs_f64());
            }
        }
        measured.ours.push(of_ours);
        measured.theirs.push(of_theirs);
    }
    measured
}

/// Returns the time that the work took, and its result.
pub(crate) async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let started = Instant::now();
    let result = work.await;
    (started.elapsed(), result)
}

/// Returns the time that the work took.
pub(crate) async fn time<T>(work: impl Future<Output = T>) -> Duration {
    timed(work).await.0
}

pub(crate) fn median(of: impl IntoIterator<Item = f64>) -> f64 {
    quantile(of, 0.5)
}

pub(crate) fn spread(of: impl IntoIterator<Item = f64>) -> Spread {
    let of: Vec<_> = of.into_iter().collect();
    let at = |q| quantile(of.iter().copied(), q);
    Spread { low: at(0.25), median: at(0.5), high: at(0.75) }
}

/// Returns the quantile `q` of the values. Interpolates between two values if necessary.
pub(crate) fn quantile(of: impl IntoIterator<Item = f64>, q: f64) -> f64 {
    let mut sorted: Vec<_> = of.into_iter().collect();
    assert!(!sorted.is_empty(), "nothing was measured");
    sorted.sort_by(f64::total_cmp);
    let at = q * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}
