//! What a benchmark leaves in the cluster, until it is removed.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use streamhouse_client::{Admin, AdminError};

/// Groups that are removed at once.
const REMOVED_AT_ONCE: usize = 32;

/// The error of a measurement, or else that of removing what it made, which is told in any case.
pub(super) fn ended(
    measured: anyhow::Result<()>,
    removed: anyhow::Result<()>,
) -> anyhow::Result<()> {
    if let (Err(_), Err(error)) = (&measured, &removed) {
        tracing::warn!("{error:#}");
    }
    measured.and(removed)
}

/// What may be there after a measurement, by name.
#[derive(Default)]
pub(super) struct Made {
    pub(super) topics: Vec<String>,
    pub(super) groups: Vec<String>,
}

impl Made {
    /// Ends with the first thing that cannot be removed: the others may take as long each.
    pub(super) async fn remove(self, admin: &Admin) -> Result<(), AdminError> {
        let gone = |removed: Result<(), AdminError>| match removed {
            // It did not come to that.
            Err(AdminError::UnknownGroup { .. } | AdminError::UnknownTopic { .. }) => Ok(()),
            other => other,
        };
        let groups = stream::iter(&self.groups).map(|group| admin.delete_group(group));
        let groups = groups.buffer_unordered(REMOVED_AT_ONCE).map(gone);
        groups.try_collect::<()>().await?;
        for topic in &self.topics {
            gone(admin.delete_topic(topic).await.map(drop))?;
        }
        Ok(())
    }
}
