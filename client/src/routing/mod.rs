//! Who to talk to: connections to controllers ([`ControllerPool`]), and which agent takes a partition's batches
//! ([`Routes`]).

mod breaker;
mod channel;
mod controllers;
mod metadata;
mod producers;
mod requester;
mod routes;

pub(crate) use breaker::{BreakerRule, Breakers};
pub(crate) use channel::{Client, agent_channel};
pub(crate) use controllers::{ControllerPool, PoolConfig};
pub(crate) use metadata::{MAX_OFFSETS, Metadata};
pub(crate) use producers::{ProducerId, Progress};
pub(crate) use requester::Requester;
pub(crate) use routes::{Routes, TopicRoute};
