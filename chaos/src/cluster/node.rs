//! The places of a cluster under trial between which there are links.

use std::fmt;

/// A controller or an agent by its number from 1, the object store, or all clients (the suite's own process).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Node {
    /// A controller.
    Controller(usize),
    /// An agent.
    Agent(usize),
    /// The object store.
    Store,
    /// Every client.
    Client,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller(n) => write!(f, "controller {n}"),
            Self::Agent(n) => write!(f, "agent {n}"),
            Self::Store => f.write_str("store"),
            Self::Client => f.write_str("clients"),
        }
    }
}

impl Node {
    /// As a file's name.
    pub(crate) fn file_name(self) -> String {
        self.to_string().replace(' ', "-")
    }
}
