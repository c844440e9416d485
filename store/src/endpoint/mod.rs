//! Test support: an S3 endpoint inside this process, on loopback, over any `object_store`, or over one in memory that
//! lists large buckets quickly ([`Memory`]).
//!
//! It speaks as much of the protocol as StreamHouse uses: PutObject (`If-None-Match: *`), GetObject with ranges,
//! HeadObject, DeleteObject, ListObjectsV2. Buckets need not be made: a bucket is the first segment of a key.
//! Whether two creators of one key can both win is decided by the store underneath, atomically for
//! [`InMemory`](object_store::memory::InMemory) and for a folder. Signatures are checked.

mod faults;
mod interfere;
mod memory;
mod objects;

pub use faults::{Faults, Weather};
pub use interfere::{Fate, Interference};
pub use memory::Memory;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use object_store::ObjectStore;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use objects::Objects;

const ACCESS_KEY: &str = "streamhouse";
const SECRET_KEY: &str = "not-a-secret";

/// A running endpoint. Dropping it closes its port and all its connections.
pub struct Endpoint {
    address: SocketAddr,
    faults: Arc<Faults>,
    /// The accepting task, which owns the connections' tasks. Dropping the set ends it.
    _server: JoinSet<()>,
}

impl Endpoint {
    /// Serve `objects` on a free port of 127.0.0.1.
    pub async fn start(objects: Arc<dyn ObjectStore>) -> io::Result<Self> {
        Self::start_with(objects, Arc::new(interfere::Nothing)).await
    }

    /// The same, where `interference` decides what becomes of each request.
    pub async fn start_with(
        objects: Arc<dyn ObjectStore>,
        interference: Arc<dyn Interference>,
    ) -> io::Result<Self> {
        let faults = Arc::new(Faults::default());
        let objects = Objects::new(objects, Arc::clone(&faults));
        Self::serve(objects, faults, interference).await
    }

    /// The same over a bucket whose pages cost what they hold.
    pub async fn start_over(
        bucket: Memory,
        interference: Arc<dyn Interference>,
    ) -> io::Result<Self> {
        let faults = Arc::new(Faults::default());
        let objects = Objects::in_order(bucket, Arc::clone(&faults));
        Self::serve(objects, faults, interference).await
    }

    async fn serve(
        objects: Objects,
        faults: Arc<Faults>,
        interference: Arc<dyn Interference>,
    ) -> io::Result<Self> {
        let mut builder = S3ServiceBuilder::new(objects);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let mut server = JoinSet::new();
        server.spawn(serve(listener, service, interference, Arc::clone(&faults)));
        Ok(Self { address, faults, _server: server })
    }

    /// What it does to its callers; by default nothing.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// `http://127.0.0.1:<port>`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The options with which [`Store::open_with`](crate::Store::open_with) reaches this endpoint.
    #[must_use]
    pub fn options(&self) -> Vec<(String, String)> {
        Self::options_by(self.address)
    }

    /// The same by way of a proxy at `address`.
    #[must_use]
    pub fn options_by(address: SocketAddr) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT", format!("http://{address}").as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }
}

/// Connections are tasks of the set, which ends them when it is dropped with this task.
async fn serve(
    listener: TcpListener,
    service: S3Service,
    interference: Arc<dyn Interference>,
    faults: Arc<Faults>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                // Closed at once: nobody is there.
                Ok(_) if faults.is_out() => {}
                Ok((stream, _)) => {
                    let (service, interference) = (service.clone(), Arc::clone(&interference));
                    connections.spawn(serve_connection(stream, service, interference));
                }
                Err(error) => tracing::warn!(%error, "endpoint cannot accept"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    service: S3Service,
    interference: Arc<dyn Interference>,
) {
    // Without this an answer waits up to 40 ms for the client's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "endpoint connection ended");
        return;
    }
    let server = auto::Builder::new(TokioExecutor::new());
    let service = service_fn(|request| {
        interfere::answer(service.clone(), Arc::clone(&interference), request)
    });
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(error, "endpoint connection ended");
    }
}
