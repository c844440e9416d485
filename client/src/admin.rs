//! [`Admin`]: topics and the state of the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use streamhouse_proto::v1;
use streamhouse_segment::ids::TopicId;
use thiserror::Error;

use crate::convert;
use crate::errors::{CallError, Code, ConfigError, Refusal};
use crate::routing::{Client, ControllerPool, Metadata, PoolConfig, Requester};
use crate::types::{AgentStatus, Cluster, ControllerStatus, Role, Topic, TopicDescription};

/// Why an administrative call failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdminError {
    /// A builder option that cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The name is taken.
    #[error("topic {name} exists")]
    TopicExists {
        /// The topic's name.
        name: String,
    },
    /// No topic of that name.
    #[error("unknown topic {name}")]
    UnknownTopic {
        /// The topic's name.
        name: String,
    },
    /// No consumer group of that name.
    #[error("unknown group {name}")]
    UnknownGroup {
        /// The group's name.
        name: String,
    },
    /// The consumer group has members, so nobody else changes it.
    #[error("group {name} has members: stop them first, or wait until their sessions end")]
    GroupNotEmpty {
        /// The group's name.
        name: String,
    },
    /// The request itself is wrong.
    #[error("{reason}")]
    Invalid {
        /// What is wrong, in the cluster's words.
        reason: String,
    },
    /// The call did not succeed.
    #[error(transparent)]
    Call(CallError),
}

impl AdminError {
    /// Can the same call succeed later?
    pub fn retryable(&self) -> bool {
        match self {
            Self::Config(_)
            | Self::TopicExists { .. }
            | Self::UnknownTopic { .. }
            | Self::UnknownGroup { .. }
            | Self::GroupNotEmpty { .. }
            | Self::Invalid { .. } => false,
            Self::Call(error) => error.retryable(),
        }
    }

    /// May the call have taken effect although it is reported as failed?
    pub fn may_have_taken_effect(&self) -> bool {
        match self {
            Self::Config(_)
            | Self::TopicExists { .. }
            | Self::UnknownTopic { .. }
            | Self::UnknownGroup { .. }
            | Self::GroupNotEmpty { .. }
            | Self::Invalid { .. } => false,
            Self::Call(error) => error.may_have_taken_effect(),
        }
    }

    fn about_topic(error: CallError, name: &str) -> Self {
        let name = name.to_owned();
        match error {
            CallError::Refused(Refusal { code: Code::TopicExists, .. }) => {
                Self::TopicExists { name }
            }
            CallError::Refused(Refusal { code: Code::UnknownTopic, .. }) => {
                Self::UnknownTopic { name }
            }
            CallError::Refused(Refusal { code: Code::InvalidArgument, message }) => {
                Self::Invalid { reason: message }
            }
            other => Self::Call(other),
        }
    }
}

impl From<CallError> for AdminError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// Builds an [`Admin`].
#[derive(Clone, Debug, Default)]
pub struct AdminBuilder {
    pool: PoolConfig,
}

impl AdminBuilder {
    /// Addresses of some controllers, `host:port`; the others are learned. Required.
    pub fn controllers<S: Into<String>>(mut self, all: impl IntoIterator<Item = S>) -> Self {
        self.pool.set_controllers(all);
        self
    }

    /// How long no controller at all may be reachable before the first one was; never longer than a call may take.
    /// Default: 15 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.pool.connect_timeout = timeout;
        self
    }

    /// How long one call may take, all tries together. Default: 15 s.
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.pool.operation_timeout = timeout;
        self
    }

    /// How long one try of a call may take before another controller is asked. Default: 3 s.
    pub fn try_timeout(mut self, timeout: Duration) -> Self {
        self.pool.try_timeout = timeout;
        self
    }

    /// Checks the options. Nothing is connected before the first call.
    pub fn build(self) -> Result<Admin, AdminError> {
        let metadata = Metadata::new(self.pool.clone())?;
        Ok(Admin { config: self.pool, metadata, requester: Requester::new() })
    }
}

/// Creates, lists and deletes topics; shows controllers and agents.
#[derive(Debug)]
pub struct Admin {
    config: PoolConfig,
    metadata: Metadata,
    requester: Requester,
}

impl Admin {
    /// An `Admin` to be configured.
    pub fn builder() -> AdminBuilder {
        AdminBuilder::default()
    }

    pub(crate) fn next_request(&self) -> v1::RequestId {
        self.requester.next()
    }

    /// Creates a topic and returns its id.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: u32,
        config: BTreeMap<String, String>,
    ) -> Result<TopicId, AdminError> {
        let request = v1::CreateTopicRequest {
            request: Some(self.requester.next()),
            name: name.to_owned(),
            partitions,
            config,
        };
        let answer = self
            .pool()
            .call("create topic", |mut client: Client| {
                let request = request.clone();
                async move { client.create_topic(request).await }
            })
            .await
            .map_err(|error| AdminError::about_topic(error, name))?;
        self.pool().observe(answer.applied);
        Ok(convert::topic_id(&answer.topic_id)?)
    }

    /// Deletes a topic and returns the id that it had.
    pub async fn delete_topic(&self, name: &str) -> Result<TopicId, AdminError> {
        let request =
            v1::DeleteTopicRequest { request: Some(self.requester.next()), name: name.to_owned() };
        let answer = self
            .pool()
            .call("delete topic", |mut client: Client| {
                let request = request.clone();
                async move { client.delete_topic(request).await }
            })
            .await
            .map_err(|error| AdminError::about_topic(error, name))?;
        self.pool().observe(answer.applied);
        Ok(convert::topic_id(&answer.topic_id)?)
    }

    /// All topics, by name. Linearizable.
    pub async fn list_topics(&self) -> Result<Vec<Topic>, AdminError> {
        let answer = self
            .pool()
            .call("list topics", |mut client: Client| async move {
                client.list_topics(v1::ListTopicsRequest { linearizable: true }).await
            })
            .await?;
        self.pool().observe(answer.applied);
        let topics: Result<Vec<_>, _> = answer.topics.into_iter().map(convert::topic).collect();
        let mut topics = topics?;
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// A topic and the state of its partitions. Linearizable.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, AdminError> {
        let description = self.metadata.describe(name, true).await;
        description.map_err(|error| AdminError::about_topic(error, name))
    }

    /// The cluster, as the controller that answers sees it.
    pub async fn cluster(&self) -> Result<Cluster, AdminError> {
        Ok(self.metadata.cluster().await?)
    }

    /// Every agent with an open session. Linearizable.
    pub async fn agents(&self) -> Result<Vec<AgentStatus>, AdminError> {
        let answer = self
            .pool()
            .call("list agents", |mut client: Client| async move {
                client.list_agents(v1::ListAgentsRequest { linearizable: true }).await
            })
            .await?;
        self.pool().observe(answer.applied);
        Ok(answer.agents.into_iter().map(convert::agent).collect())
    }

    /// Each controller of the cluster, asked about itself, all at once; one that does not answer within a try's time
    /// is [`Role::Unreachable`]. Fails only if none can tell who the controllers are.
    pub async fn controllers(&self) -> Result<Vec<ControllerStatus>, AdminError> {
        let cluster = self.cluster().await?;
        let ask = cluster.controllers.into_iter().map(|member| async move {
            let problem = match self.controller(&member.address).await {
                Ok(status) if status.id == member.id => return status,
                Ok(other) => format!("controller {} answers at its address", other.id),
                Err(error) => error.to_string(),
            };
            ControllerStatus {
                id: member.id,
                address: member.address,
                role: Role::Unreachable,
                pid: 0,
                term: 0,
                applied: 0,
                last_log: 0,
                snapshot: 0,
                state_hash: String::new(),
                committed: 0,
                leader: None,
                disk: String::new(),
                snapshot_age: None,
                state_bytes: 0,
                log_syncs: 0,
                feature_level: 0,
                reads_level: 0,
                problem: Some(problem),
            }
        });
        Ok(join_all(ask).await)
    }

    /// The controller at `address`, asked about itself, for no longer than one try.
    pub async fn controller(&self, address: &str) -> Result<ControllerStatus, AdminError> {
        let config = PoolConfig {
            controllers: vec![address.to_owned()],
            operation_timeout: self.config.try_timeout,
            ..self.config.clone()
        };
        let answer = ControllerPool::new(config)?
            .call("get controller", |mut client: Client| async move {
                client.get_controller(v1::GetControllerRequest {}).await
            })
            .await?;
        Ok(convert::controller(answer, address))
    }

    /// Adds the controller at `address`, a process started to join this cluster, as a learner; the cluster makes it a
    /// voter once it has caught up, in the place of `replaces` if that is given. Returns its id. Adding one that is a
    /// member already changes nothing.
    pub async fn add_controller(
        &self,
        address: &str,
        replaces: Option<u64>,
    ) -> Result<u64, AdminError> {
        let request = v1::AddControllerRequest {
            address: address.to_owned(),
            replaces: replaces.unwrap_or(0),
            ..v1::AddControllerRequest::default()
        };
        let answer = self
            .pool()
            .call("add controller", |mut client: Client| {
                let request = request.clone();
                async move { client.add_controller(request).await }
            })
            .await?;
        Ok(answer.id)
    }

    /// Removes a controller; one that leads hands over first. Its id is never used again. Removing one that was
    /// removed before changes nothing.
    pub async fn remove_controller(&self, id: u64) -> Result<(), AdminError> {
        self.pool()
            .call("remove controller", |mut client: Client| async move {
                client.remove_controller(v1::RemoveControllerRequest { id }).await
            })
            .await?;
        Ok(())
    }

    /// Hands the leadership of the controllers to `to`, or to the one whose log is furthest. Returns who leads now.
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<u64, AdminError> {
        let answer = self
            .pool()
            .call("transfer leader", |mut client: Client| async move {
                let request = v1::TransferLeaderRequest { to: to.unwrap_or(0) };
                client.transfer_leader(request).await
            })
            .await?;
        Ok(answer.leader_id)
    }

    pub(crate) fn pool(&self) -> &ControllerPool {
        &self.metadata.pool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_about_a_topic_names_it() {
        let refused = |code| {
            let refusal = Refusal { code, message: "no".to_owned() };
            AdminError::about_topic(CallError::Refused(refusal), "orders").to_string()
        };
        assert_eq!(refused(Code::TopicExists), "topic orders exists");
        assert_eq!(refused(Code::UnknownTopic), "unknown topic orders");
        assert_eq!(refused(Code::InvalidArgument), "no");
    }

    #[test]
    fn an_admin_without_controllers_is_refused() {
        let error = Admin::builder().build().unwrap_err();
        assert_eq!(error.to_string(), "controllers: no address given");
    }
}
