//! What is refused for now is asked again, for so long as the audit has patience; then it says that it gave up, and on
//! what.

use std::time::Duration;

use super::AuditError;
use crate::clock;

/// Between two tries.
const AGAIN: Duration = Duration::from_millis(200);

/// Asks until there is an answer, a refusal for good, or no patience any more.
pub(super) async fn patiently<T>(
    patience: Duration,
    what: &str,
    ask: impl AsyncFn() -> Result<T, AuditError>,
) -> Result<T, AuditError> {
    let begun = clock::now();
    loop {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if !error.may_pass() => return Err(error),
            Err(error) => error,
        };
        let asked = clock::now().saturating_duration_since(begun);
        if asked >= patience {
            let (what, last) = (what.to_owned(), Box::new(error));
            return Err(AuditError::GaveUp { what, asked, last });
        }
        tokio::time::sleep(AGAIN.min(patience.saturating_sub(asked))).await;
    }
}

impl AuditError {
    /// A cluster that heals may answer the next time.
    fn may_pass(&self) -> bool {
        match self {
            Self::Admin(error) => error.retryable(),
            Self::GaveUp { .. } => false,
            Self::Index { retryable, .. } => *retryable,
            Self::Store(error) => error.can_retry(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn busy(retryable: bool) -> AuditError {
        let reason = "an election".to_owned();
        AuditError::Index { at: "log/0".to_owned(), offset: 7, reason, retryable }
    }

    #[tokio::test]
    async fn what_is_refused_for_now_is_asked_again() {
        let asked = Cell::new(0);
        let answer = patiently(Duration::from_secs(60), "the index", async || {
            asked.set(asked.get() + 1);
            if asked.get() < 3 { Err(busy(true)) } else { Ok(asked.get()) }
        });
        assert_eq!(answer.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn what_is_refused_for_good_is_not() {
        let asked = Cell::new(0);
        let refused: Result<(), _> = patiently(Duration::from_secs(60), "the index", async || {
            asked.set(asked.get() + 1);
            Err(busy(false))
        })
        .await;
        assert!(matches!(refused, Err(AuditError::Index { retryable: false, .. })));
        assert_eq!(asked.get(), 1);
    }

    #[tokio::test]
    async fn who_gives_up_says_so_and_on_what() {
        let patience = Duration::from_millis(1);
        let gave_up: Result<(), _> =
            patiently(patience, "the index of log/0", async || Err(busy(true))).await;
        let error = gave_up.unwrap_err();
        assert!(matches!(error, AuditError::GaveUp { asked, .. } if asked >= patience));
        let text = error.to_string();
        assert!(text.starts_with("given up: the index of log/0, asked for "), "{text}");
        assert!(text.ends_with("an election"), "{text}");
    }
}
