//! What an agent can be told, and what can be wrong with it.

use crate::engine::{FlushRule, Rules};
use crate::marker::MarkerError;
use std::net::SocketAddr;
use std::time::Duration;
use streamhouse_segment::{Limits, MAX_BATCHES, MAX_SLICES};
use streamhouse_store::{OpenError, ProbeError, Store};

/// The flush interval where a PUT costs money.
const REMOTE_FLUSH_INTERVAL: Duration = Duration::from_millis(250);
/// The flush interval where it does not.
const LOCAL_FLUSH_INTERVAL: Duration = Duration::from_millis(5);

/// An agent's settings.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// All controllers, each `host:port`.
    pub controllers: Vec<String>,
    /// Where to listen for producers. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where producers reach this agent, `host:port`. Default: the address it listens on.
    pub advertise: Option<String>,
    /// Where objects go; all agents of a cluster name the same store.
    pub store_url: String,
    /// The agent group whose partitions it serves. Default: `default`.
    pub group: String,
    /// Where it runs, for operators. Default: empty.
    pub zone: String,
    /// An object is made when it would be this large. Default: 8 MiB.
    pub flush_bytes: usize,
    /// The longest that a batch waits for company. Default: 250 ms on a remote store, 5 ms on a local one.
    pub flush_interval: Option<Duration>,
    /// PUTs at once. Default: 4.
    pub max_uploads: usize,
    /// Bytes of batches that are not answered yet; beyond it produce streams are paused. Default: 256 MiB.
    pub buffer_bytes: usize,
    /// A PUT that did not succeed for this long is given up, and its batches go to another object. Default: 60 s.
    pub put_timeout: Duration,
    /// A batch that could not be stored for this long is failed. Default: 120 s.
    pub delivery_timeout: Duration,
    /// How long a shutdown waits for the last acknowledgements and the hand-over. Default: 10 s.
    pub shutdown_timeout: Duration,
    /// Produce streams at once; further ones are told to come back later. Default: 1,024.
    pub max_streams: usize,
    /// Unanswered batches of one produce stream; beyond it the stream is paused. Default: 8,192.
    pub max_stream_batches: usize,
    /// What a batch may cost.
    pub limits: Limits,
    /// Where to answer `/healthz`, `/readyz` and `/metrics` over HTTP. Default: nowhere.
    pub http_listen: Option<SocketAddr>,
    /// Unreachable objects deleted in a second, while this agent is the one that does. Default: 100.
    pub gc_rate: u32,
}

impl AgentOptions {
    /// The defaults.
    pub fn new(controllers: Vec<String>, listen: SocketAddr, store_url: impl Into<String>) -> Self {
        Self {
            controllers,
            listen,
            advertise: None,
            store_url: store_url.into(),
            group: "default".to_owned(),
            zone: String::new(),
            flush_bytes: 8 << 20,
            flush_interval: None,
            max_uploads: 4,
            buffer_bytes: 256 << 20,
            put_timeout: Duration::from_secs(60),
            delivery_timeout: Duration::from_secs(120),
            shutdown_timeout: Duration::from_secs(10),
            max_streams: 1_024,
            max_stream_batches: 8_192,
            limits: Limits::default(),
            http_listen: None,
            gc_rate: 100,
        }
    }

    /// Checks what can be checked without asking anybody.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let positive = [
            ("flush_bytes", self.flush_bytes),
            ("max_uploads", self.max_uploads),
            ("buffer_bytes", self.buffer_bytes),
            ("max_streams", self.max_streams),
            ("max_stream_batches", self.max_stream_batches),
            ("gc_rate", self.gc_rate as usize),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((option, _)) => Err(StartError::Zero { option }),
            None => Ok(()),
        }
    }

    /// What producers are told, given where the agent really listens.
    pub(crate) fn advertised(&self, bound: SocketAddr) -> Result<String, StartError> {
        match &self.advertise {
            Some(address) => Ok(address.clone()),
            None if bound.ip().is_unspecified() => Err(StartError::NoAdvertise { listen: bound }),
            None => Ok(bound.to_string()),
        }
    }

    pub(crate) fn rules(&self, store: &Store) -> Rules {
        let default = if store.is_remote() { REMOTE_FLUSH_INTERVAL } else { LOCAL_FLUSH_INTERVAL };
        let flush = FlushRule {
            bytes: self.flush_bytes,
            interval: self.flush_interval.unwrap_or(default),
            max_slices: MAX_SLICES,
            max_batches: MAX_BATCHES,
        };
        Rules { flush, max_uploads: self.max_uploads, delivery_timeout: self.delivery_timeout }
    }
}

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nobody to register with.
    #[error("no controllers given")]
    NoControllers,
    /// Not `host:port`.
    #[error("controller address {address:?} is not host:port: {error}")]
    Controller {
        /// The address.
        address: String,
        /// What is wrong with it.
        error: tonic::transport::Error,
    },
    /// A limit that must not be zero.
    #[error("{option} must not be 0")]
    Zero {
        /// The option's name.
        option: &'static str,
    },
    /// The address to listen on is taken or not ours.
    #[error("cannot listen on {listen}: {error}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The metrics' recorder cannot be made.
    #[error("metrics: {message}")]
    Metrics {
        /// What is wrong.
        message: String,
    },
    /// The agent listens everywhere and was not told where producers reach it.
    #[error("listening on {listen} needs an address to advertise")]
    NoAdvertise {
        /// The address.
        listen: SocketAddr,
    },
    /// The store's URL or options are wrong.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store cannot be used, or does not keep what it must promise.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The store is not the cluster's.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// The controllers refused the agent.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// Why an agent cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// The cluster keeps its data elsewhere.
    #[error("the cluster uses another store than {store_url}: {message}")]
    StoreMismatch {
        /// This agent's store.
        store_url: String,
        /// What the controllers said.
        message: String,
    },
    /// The controllers refused the registration for good.
    #[error("the controllers refused the registration: {message}")]
    Refused {
        /// What they said.
        message: String,
    },
    /// The listener failed.
    #[error("the produce server failed: {message}")]
    Server {
        /// What it said.
        message: String,
    },
}

/// Why a shutdown was not clean. The agent has stopped all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShutdownError {
    /// Batches or leases were left when the time was up; their producers were told.
    #[error("not everything was flushed and handed over within {after:?}")]
    Deadline {
        /// [`AgentOptions::shutdown_timeout`].
        after: Duration,
    },
}
