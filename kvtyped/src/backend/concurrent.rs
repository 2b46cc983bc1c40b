//! Fair polling of many futures in one task.

use futures::{Stream, StreamExt};
use tokio::task::coop;

/// Waits for the next output of a stream that polls many futures, such as `FuturesUnordered` or `buffer_unordered`.
///
/// The futures are polled without the cooperative budget of tokio, and the task yields between their outputs instead. With
/// the budget, the futures that exhaust it are woken last in, first out: the oldest future of a large set would starve
/// until no new ones are added, and pass its deadline.
///
/// # Cancel safety
///
/// If the future is dropped, no output is lost.
pub(crate) async fn next_output<S: Stream + Unpin>(futures: &mut S) -> Option<S::Item> {
    coop::consume_budget().await;
    coop::unconstrained(futures.next()).await
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    /// Returns the largest number of later futures that complete before an earlier one.
    async fn largest_shift<N: AsyncFnMut(&mut Outputs) -> Option<usize>>(mut next: N) -> usize {
        let budget = async |number| {
            for _ in 0..3 {
                coop::consume_budget().await;
            }
            number
        };
        let mut outputs: Outputs = stream::iter(0..10_000).map(budget).buffer_unordered(500).boxed_local();
        let mut shift = 0;
        let mut position: usize = 0;
        while let Some(number) = next(&mut outputs).await {
            shift = shift.max(position.abs_diff(number));
            position += 1;
        }
        assert_eq!(position, 10_000);
        shift
    }

    type Outputs = stream::LocalBoxStream<'static, usize>;

    #[tokio::test]
    async fn overtaking_of_futures_is_bounded() {
        assert!(largest_shift(async |outputs| next_output(outputs).await).await < 1_000);
    }

    #[tokio::test]
    async fn shared_budget_starves_a_future() {
        assert!(largest_shift(async |outputs| outputs.next().await).await > 5_000, "the negative control");
    }

    #[tokio::test]
    async fn other_tasks_run_between_outputs() {
        let other = tokio::spawn(async {});
        let mut outputs = stream::iter(0..1_000).map(std::future::ready).buffer_unordered(500);
        for _ in 0..200 {
            next_output(&mut outputs).await;
        }
        assert!(other.is_finished());
    }
}
