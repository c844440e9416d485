//! BOUND: how many calls a controller is working at. One too many is told so
//! before its message is read, and may be tried again.
//!
//! Controllers are exempt from this, and from the limit on connections: what
//! agents and clients do must not keep them from each other.

use crate::connections::ConnectionInfo;
use crate::places::Places;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;
use tower::{Layer, Service};

/// The service that only controllers call.
const PEERS: &str = "/streamhouse.v1.Raft/";

/// Puts the limit before all services.
#[derive(Clone)]
pub(crate) struct CallLimit {
    pub(crate) calls: Places,
}

impl<S> Layer<S> for CallLimit {
    type Service = LimitedCalls<S>;

    fn layer(&self, inner: S) -> LimitedCalls<S> {
        LimitedCalls { inner, calls: self.calls.clone() }
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct LimitedCalls<S> {
    inner: S,
    calls: Places,
}

impl<S, B, R> Service<http::Request<B>> for LimitedCalls<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = http::Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let connection = request.extensions().get::<ConnectionInfo>();
        if request.uri().path().starts_with(PEERS) {
            if let Some(connection) = connection {
                connection.is_peers();
            }
            return Box::pin(self.inner.call(request));
        }
        if let Some(refusal) = connection.and_then(ConnectionInfo::refusal) {
            return refuse(refusal);
        }
        let Some(place) = self.calls.take() else {
            return refuse(self.calls.refusal());
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(place);
            answer
        })
    }
}

fn refuse<R: Default + Send + 'static, E: Send + 'static>(
    refusal: Status,
) -> Pin<Box<dyn Future<Output = Result<http::Response<R>, E>> + Send>> {
    Box::pin(std::future::ready(Ok(refusal.into_http())))
}
