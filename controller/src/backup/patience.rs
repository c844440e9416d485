//! Reads of a store are tried again: the store itself does not.

use std::future::Future;
use std::time::Duration;
use streamhouse_store::GetError;

const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Reads until it succeeds, fails for good, or has failed six times.
pub(crate) async fn patiently<T, F>(mut read: impl FnMut() -> F) -> Result<T, GetError>
where
    F: Future<Output = Result<T, GetError>>,
{
    let mut pause = FIRST_PAUSE;
    for _ in 1..TRIES {
        match read().await {
            Err(error) if error.can_retry() => {
                tracing::debug!(%error, "reading again");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            outcome => return outcome,
        }
    }
    read().await
}
