//! How the store stands, as the PUTs see it: what is wrong is said once, not with every attempt, and shows in
//! `/readyz` until a PUT succeeds.

use crate::clock;
use parking_lot::Mutex;
use std::fmt;
use std::time::{Duration, Instant};
use streamhouse_store::PutError;

/// The same cause is not spoken of more often.
const SAID: Duration = Duration::from_secs(60);
/// A store that fails for so long hinders, whatever the cause.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why PUTs fail, as far as operators tell causes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Unavailable,
    Ambiguous,
    Throttled,
    Denied,
    Full,
    ReadOnly,
    Fatal,
    Invalid,
}

impl Cause {
    pub(crate) const ALL: [Self; 8] = [
        Self::Unavailable,
        Self::Ambiguous,
        Self::Throttled,
        Self::Denied,
        Self::Full,
        Self::ReadOnly,
        Self::Fatal,
        Self::Invalid,
    ];

    pub(crate) fn of(error: &PutError) -> Self {
        match error {
            PutError::Unavailable { .. } => Self::Unavailable,
            PutError::Ambiguous { .. } => Self::Ambiguous,
            PutError::Throttled { .. } => Self::Throttled,
            PutError::Denied { .. } => Self::Denied,
            PutError::Full { .. } => Self::Full,
            PutError::ReadOnly { .. } => Self::ReadOnly,
            PutError::Fatal { .. } => Self::Fatal,
            PutError::Invalid { .. } => Self::Invalid,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Ambiguous => "ambiguous",
            Self::Throttled => "throttled",
            Self::Denied => "denied",
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Fatal => "failed",
            Self::Invalid => "refused",
        }
    }

    /// It does not pass by itself: somebody has to be told.
    fn is_alarm(self) -> bool {
        match self {
            Self::Denied | Self::Full | Self::ReadOnly | Self::Fatal | Self::Invalid => true,
            Self::Unavailable | Self::Ambiguous | Self::Throttled => false,
        }
    }
}

#[derive(Debug, Default)]
struct Standing {
    /// Since the last success.
    failing: Option<(Instant, Cause, String)>,
    said: [Option<Instant>; Cause::ALL.len()],
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Trouble(Mutex<Standing>);

impl Trouble {
    /// A PUT failed.
    pub(crate) fn failed(&self, cause: Cause, error: &dyn fmt::Display) {
        let now = clock::now();
        if !self.note(now, cause, error.to_string()) {
            tracing::debug!(%error, "put failed, trying again");
        } else if cause.is_alarm() {
            tracing::error!(%error, cause = cause.as_str(), "the store takes no object; trying on");
        } else {
            tracing::warn!(%error, cause = cause.as_str(), "put failed, trying again");
        }
    }

    /// Whether it has to be said.
    fn note(&self, now: Instant, cause: Cause, message: String) -> bool {
        let mut standing = self.0.lock();
        let since = standing.failing.as_ref().map_or(now, |(since, ..)| *since);
        standing.failing = Some((since, cause, message));
        let said = &mut standing.said[cause as usize];
        let fresh = said.is_none_or(|at| now.saturating_duration_since(at) >= SAID);
        if fresh {
            *said = Some(now);
        }
        fresh
    }

    /// A PUT succeeded.
    pub(crate) fn succeeded(&self) {
        let over = self.0.lock().failing.take();
        if let Some((since, cause, _)) = over {
            let after = clock::now().saturating_duration_since(since);
            if after >= PATIENCE {
                tracing::info!(?after, cause = cause.as_str(), "the store takes objects again");
            }
        }
    }

    /// Whether the last PUT failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.0.lock().failing.is_some()
    }

    /// Why no batch can be stored just now, if none can.
    pub(crate) fn hindrance(&self, now: Instant) -> Option<String> {
        let standing = self.0.lock();
        let (since, cause, message) = standing.failing.as_ref()?;
        let long = now.saturating_duration_since(*since) >= PATIENCE;
        (long || cause.is_alarm()).then(|| message.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once_a_minute() {
        let trouble = Trouble::default();
        let now = clock::now();
        assert!(trouble.note(now, Cause::Denied, "no".into()));
        assert!(!trouble.note(now, Cause::Denied, "no".into()));
        assert!(trouble.note(now, Cause::Throttled, "slower".into()), "another cause");
        // One success among failures does not make each of them news.
        trouble.succeeded();
        assert!(!trouble.note(now, Cause::Throttled, "slower".into()));
        assert!(trouble.note(now + SAID, Cause::Denied, "no".into()));
    }

    #[test]
    fn an_alarm_hinders_at_once_and_anything_else_when_it_lasts() {
        let trouble = Trouble::default();
        let now = clock::now();
        trouble.note(now, Cause::Throttled, "slower".into());
        assert_eq!(trouble.hindrance(now), None);
        trouble.note(now + PATIENCE, Cause::Throttled, "slower".into());
        assert_eq!(trouble.hindrance(now + PATIENCE).as_deref(), Some("slower"));
        trouble.note(now + PATIENCE, Cause::Denied, "expired".into());
        trouble.succeeded();
        assert_eq!(trouble.hindrance(now + PATIENCE), None);
        trouble.note(now, Cause::Denied, "expired".into());
        assert_eq!(trouble.hindrance(now).as_deref(), Some("expired"));
    }
}
