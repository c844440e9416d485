//! What the member wants to read: found by its subscription, said to the controllers when it joins and when it changes.

use std::collections::{BTreeMap, BTreeSet};

use streamhouse_proto::v1;
use streamhouse_segment::ids::TopicId;
use tokio::task::JoinError;

use super::grants::Progress;
use super::{Membership, Over};
use crate::clock;
use crate::consumer::discovery;
use crate::consumer::error::ConsumeError;
use crate::consumer::subscription::Subscription;
use crate::errors::{CallError, Code};
use crate::routing::{Client, Metadata};

/// The topics that the subscription wants.
pub(super) type Found = Result<BTreeSet<TopicId>, CallError>;
/// What became of saying that these are wanted.
pub(super) type Said = (BTreeSet<TopicId>, Result<v1::JoinGroupResponse, CallError>);

impl Membership {
    pub(super) async fn join(&mut self) -> Result<(), ConsumeError> {
        self.topics = find(&self.metadata, &self.subscription, true).await?;
        self.member = clock::random_id();
        let joined = self.wish(&self.topics, false).await?;
        (self.epoch, self.progress) = (joined.member_epoch, Progress::joined(joined.applied));
        Ok(())
    }

    /// Tells the controllers what the member wants.
    fn wish(
        &self,
        topics: &BTreeSet<TopicId>,
        is_member: bool,
    ) -> impl Future<Output = Result<v1::JoinGroupResponse, CallError>> + Send + use<> {
        let request = v1::JoinGroupRequest {
            request: Some(self.requester.next()),
            group: self.group.to_string(),
            member_id: self.member.to_vec(),
            instance_id: self.instance(),
            client_id: self.options.client_id.to_string(),
            topic_ids: topics.iter().map(|id| id.to_bytes().to_vec()).collect(),
            assignor: self.options.assignor.wire().into(),
            session_timeout_ms: self.options.session_timeout_ms(),
            is_member,
        };
        let pool = self.metadata.pool.clone();
        async move {
            let answer = pool.call("join group", |mut client: Client| {
                let request = request.clone();
                async move { client.join_group(request).await }
            });
            let answer = answer.await?;
            pool.observe(answer.applied);
            Ok(answer)
        }
    }

    pub(super) fn instance(&self) -> String {
        self.options.instance_id.as_deref().unwrap_or_default().to_owned()
    }

    pub(super) fn find(&mut self) {
        if self.looking.is_empty() {
            let (metadata, subscription) = (self.metadata.clone(), self.subscription.clone());
            self.looking.spawn(async move { find(&metadata, &subscription, true).await });
        }
    }

    pub(super) fn found(&mut self, found: Result<Found, JoinError>) {
        let topics = match found {
            Ok(Ok(topics)) => topics,
            Ok(Err(error)) => {
                tracing::debug!(%error, "could not look for topics");
                return;
            }
            // A later subscription took its place.
            Err(_) => {
                self.find();
                return;
            }
        };
        self.wanted = Some(topics);
        self.say_wanted();
    }

    /// Says what is wanted now, unless an earlier wish is under way; then after that one. Signs of life go on meanwhile.
    fn say_wanted(&mut self) {
        if !self.saying.is_empty() {
            return;
        }
        let Some(topics) =
            self.wanted.take().filter(|wanted| self.unsure || *wanted != self.topics)
        else {
            return;
        };
        let wish = self.wish(&topics, true);
        self.saying.spawn(async move { (topics, wish.await) });
    }

    pub(super) fn said(&mut self, said: Result<Said, JoinError>) -> Option<Over> {
        match said {
            // Only what the controllers know need not be said again.
            Ok((topics, Ok(_))) => (self.topics, self.unsure) = (topics, false),
            Ok((_, Err(error))) if error.code() == Some(Code::FencedMember) => {
                return Some(Over::Fenced);
            }
            Ok((_, Err(error))) => {
                // It may have been heard all the same.
                self.unsure = true;
                self.fail(error.into());
            }
            Err(_) => {}
        }
        self.say_wanted();
        None
    }
}

/// The topics that the subscription wants as the cluster is now.
async fn find(
    metadata: &Metadata,
    subscription: &Subscription,
    linearizable: bool,
) -> Result<BTreeSet<TopicId>, CallError> {
    let topics = discovery::topics(metadata, linearizable).await?;
    let by_name: BTreeMap<_, _> = topics.into_iter().map(|topic| (topic.name, topic.id)).collect();
    Ok(by_name.iter().filter(|(name, _)| subscription.wants(name)).map(|(_, id)| *id).collect())
}
