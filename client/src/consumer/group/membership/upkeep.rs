//! What the member does by the clock, and its end.

use std::time::Duration;

use streamhouse_proto::v1;
use tokio::time::Instant;

use super::{Membership, Over, Streams};
use crate::clock;
use crate::routing::Client;

/// How long the leader may take to tell what came of a release, before it is asked.
const DOUBT: Duration = Duration::from_secs(1);

impl Membership {
    /// Looks at the clock: leases, polls, and the next look for topics.
    pub(super) async fn look(
        &mut self,
        streams: &mut Streams,
        refreshed: &mut Instant,
    ) -> Option<Over> {
        let now = clock::now();
        let idle = self.lease.idle_since();
        if idle.is_some_and(|since| now.duration_since(since) > self.options.max_poll_interval) {
            tracing::warn!(
                group = %self.group,
                max_poll_interval = ?self.options.max_poll_interval,
                "the application does not poll; leaving the group until it does"
            );
            self.lose_all();
            self.lease.end();
            self.leave().await;
            return Some(Over::Idle);
        }
        if now >= self.lease.until() && !self.core.is_empty() {
            tracing::warn!(group = %self.group, "no leader confirmed the member for its session timeout");
            self.lose_all();
            self.stale = true;
        }
        if !self.core.doubts() {
            self.in_doubt = None;
        } else if now.duration_since(*self.in_doubt.get_or_insert(now)) > DOUBT {
            (self.in_doubt, self.stale) = (None, true);
        }
        if self.stale && now < self.lease.until() {
            self.stale = false;
            *streams = self.attend();
        }
        if now.duration_since(*refreshed) >= self.refresh {
            *refreshed = now;
            self.find();
        }
        None
    }

    /// A static member only stops: its instance may come again.
    pub(super) async fn leave(&mut self) {
        if self.options.instance_id.is_some() {
            return;
        }
        let request = v1::LeaveGroupRequest {
            request: Some(self.requester.next()),
            group: self.group.to_string(),
            member_id: self.member.to_vec(),
        };
        let left = self.metadata.pool.call("leave group", |mut client: Client| {
            let request = request.clone();
            async move { client.leave_group(request).await }
        });
        if let Err(error) = left.await {
            tracing::warn!(group = %self.group, %error, "leaving the group failed; its session ends by itself");
        }
    }
}
