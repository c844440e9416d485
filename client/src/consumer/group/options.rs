//! How a consumer takes part in its group.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use streamhouse_proto::v1;

use super::RebalanceListener;
use crate::errors::ConfigError;

/// How a group's partitions are shared out. The controllers use the one that most members ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Assignor {
    /// Balanced, and moving as few partitions as that allows. The default.
    #[default]
    Sticky,
    /// Topic by topic, neighbouring partitions to one member; the same partitions of topics of the same size go to the
    /// same member.
    Range,
    /// Partition after partition, member after member.
    RoundRobin,
}

impl Assignor {
    /// Its name, as the command line has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sticky => "sticky",
            Self::Range => "range",
            Self::RoundRobin => "round-robin",
        }
    }

    pub(crate) fn wire(self) -> v1::GroupAssignor {
        match self {
            Self::Sticky => v1::GroupAssignor::Sticky,
            Self::Range => v1::GroupAssignor::Range,
            Self::RoundRobin => v1::GroupAssignor::RoundRobin,
        }
    }

    pub(crate) fn of(wire: v1::GroupAssignor) -> Self {
        match wire {
            v1::GroupAssignor::Sticky => Self::Sticky,
            v1::GroupAssignor::Range => Self::Range,
            v1::GroupAssignor::RoundRobin => Self::RoundRobin,
        }
    }
}

impl fmt::Display for Assignor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// See the builder's methods of the same names.
#[derive(Clone)]
pub(in crate::consumer) struct GroupOptions {
    pub(in crate::consumer) instance_id: Option<Arc<str>>,
    pub(in crate::consumer) client_id: Arc<str>,
    pub(in crate::consumer) assignor: Assignor,
    pub(in crate::consumer) session_timeout: Duration,
    /// `None`: a tenth of the session timeout, 3 s at most.
    pub(in crate::consumer) heartbeat_interval: Option<Duration>,
    pub(in crate::consumer) max_poll_interval: Duration,
    pub(in crate::consumer) listener: Option<Arc<dyn RebalanceListener>>,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            instance_id: None,
            client_id: "streamhouse-client".into(),
            assignor: Assignor::default(),
            session_timeout: Duration::from_secs(10),
            heartbeat_interval: None,
            max_poll_interval: Duration::from_secs(5 * 60),
            listener: None,
        }
    }
}

impl fmt::Debug for GroupOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupOptions")
            .field("instance_id", &self.instance_id)
            .field("client_id", &self.client_id)
            .field("assignor", &self.assignor)
            .field("session_timeout", &self.session_timeout)
            .finish_non_exhaustive()
    }
}

impl GroupOptions {
    pub(in crate::consumer) fn validate(&self) -> Result<(), ConfigError> {
        let millis = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        ConfigError::check(
            "session_timeout (ms)",
            millis(self.session_timeout),
            500..=30 * 60_000,
        )?;
        let heartbeat = self.heartbeat();
        ConfigError::check(
            "heartbeat_interval (ms)",
            millis(heartbeat),
            10..=millis(self.session_timeout) / 3,
        )?;
        ConfigError::check(
            "max_poll_interval (ms)",
            millis(self.max_poll_interval),
            100..=u64::MAX,
        )?;
        if self.instance_id.as_deref() == Some("") {
            return Err(ConfigError::new("group_instance_id", "must not be empty"));
        }
        Ok(())
    }

    pub(super) fn heartbeat(&self) -> Duration {
        let default = (self.session_timeout / 10).min(Duration::from_secs(3));
        self.heartbeat_interval.unwrap_or(default)
    }

    pub(super) fn session_timeout_ms(&self) -> u32 {
        u32::try_from(self.session_timeout.as_millis()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_that_cannot_work_are_refused_by_name() {
        let options = GroupOptions::default();
        assert!(options.validate().is_ok());
        assert_eq!(options.heartbeat(), Duration::from_secs(1));
        let short = GroupOptions { session_timeout: Duration::from_millis(100), ..options.clone() };
        assert_eq!(short.validate().unwrap_err().option, "session_timeout (ms)");
        let slow = GroupOptions { heartbeat_interval: Some(Duration::from_secs(9)), ..options };
        assert_eq!(slow.validate().unwrap_err().option, "heartbeat_interval (ms)");
    }
}
