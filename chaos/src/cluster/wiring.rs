//! What is needed to make links.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::bucket::Bucket;
use super::links::Links;
use super::node::Node;
use super::proxy::Proxy;
use super::sources::Sources;
use super::tape::Tape;
use crate::error::ChaosError;

/// See the module.
pub(super) struct Wiring {
    pub(super) sources: Sources,
    pub(super) links: Links,
    pub(super) tape: Tape,
    pub(super) bucket: Bucket,
    pub(super) proxies: JoinSet<()>,
}

impl Wiring {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self {
            sources: Sources::default(),
            links: Links::new(),
            tape: Tape::default(),
            bucket,
            proxies: JoinSet::new(),
        }
    }

    /// A proxy before `upstream`; where it listens.
    pub(super) async fn proxy(
        &mut self,
        destination: Node,
        upstream: SocketAddr,
        source: Option<Node>,
    ) -> Result<SocketAddr, ChaosError> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.map_err(ChaosError::io("opening a proxy"))?;
        let address = listener.local_addr().map_err(ChaosError::io("opening a proxy"))?;
        let (sources, links, tape) = (self.sources.clone(), self.links.clone(), self.tape.clone());
        let proxy = Proxy { listener, destination, upstream, source, sources, links, tape };
        self.proxies.spawn(proxy.run());
        Ok(address)
    }

    /// Where `node` finds the bucket.
    pub(super) async fn bucket_for(&mut self, node: Node) -> Result<SocketAddr, ChaosError> {
        let endpoint = self.bucket.serve(node).await?;
        self.proxy(Node::Store, endpoint, Some(node)).await
    }
}
