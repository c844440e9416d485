//! Asking the controllers of a cluster, one after another, until one answers.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;
use streamhouse_proto::v1::{ErrorCode, ErrorInfo};
use streamhouse_proto::{advice, from_status};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

const CONNECT: Duration = Duration::from_secs(1);
/// How long one call may take.
pub(crate) const CALL: Duration = Duration::from_secs(12);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Controllers of the cluster, as far as they are known.
pub(crate) struct Seeds {
    addresses: Vec<String>,
    next: usize,
    channels: HashMap<String, Channel>,
}

impl Seeds {
    pub(crate) fn new(addresses: &[String]) -> Self {
        Self { addresses: addresses.to_vec(), next: 0, channels: HashMap::new() }
    }

    /// The first answer of any of them, each asked once.
    pub(crate) async fn once<T, F, Fut>(&mut self, call: F) -> Option<T>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        for address in self.addresses.clone() {
            if let Ok(answer) = self.ask(&address, &call).await {
                return Some(answer);
            }
        }
        None
    }

    /// Asks one after another, and whomever they name, until one answers with
    /// a result or with an error that no retry can help, or for `patience`.
    pub(crate) async fn call<T, F, Fut>(
        &mut self,
        what: &str,
        patience: Option<Duration>,
        call: F,
    ) -> Result<T, ErrorInfo>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let begun = crate::clock::now();
        let (mut pause, mut reported) = (FIRST_PAUSE, String::new());
        loop {
            let Some(address) = self.addresses.get(self.next % self.addresses.len().max(1)) else {
                return Err(ErrorInfo::new(ErrorCode::InvalidArgument, "no controller is named"));
            };
            let address = address.clone();
            let error = match self.ask(&address, &call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !advice(error.code()).retryable
                || patience.is_some_and(|patience| begun.elapsed() > patience)
            {
                return Err(error);
            }
            if error.message != reported {
                tracing::info!(address, reason = error.message, "{what}: not yet");
                reported = error.message.clone();
            }
            self.next += 1;
            if !error.address.is_empty() && error.address != address {
                let known = self.addresses.iter().position(|known| *known == error.address);
                self.next = known.unwrap_or_else(|| {
                    self.addresses.push(error.address.clone());
                    self.addresses.len() - 1
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn ask<T, F, Fut>(&mut self, address: &str, call: &F) -> Result<T, ErrorInfo>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let channel = match self.channels.get(address) {
            Some(channel) => channel.clone(),
            None => {
                let unusable = |e: tonic::transport::Error| {
                    let message = format!("{address} is no address: {e}");
                    ErrorInfo::new(ErrorCode::InvalidArgument, message)
                };
                let endpoint = Endpoint::from_shared(format!("http://{address}"));
                let endpoint = endpoint.map_err(unusable)?.connect_timeout(CONNECT);
                let channel = streamhouse_host::net::connect_lazy(&endpoint);
                self.channels.insert(address.to_owned(), channel.clone());
                channel
            }
        };
        let answer = match tokio::time::timeout(CALL, call(channel)).await {
            Ok(answer) => answer.map_err(|status| from_status(&status)),
            Err(_) => Err(ErrorInfo::new(ErrorCode::TimedOut, "no answer in time")),
        };
        let answer = answer.map(Response::into_inner);
        answer.map_err(|error| ErrorInfo {
            message: format!("{address}: {}", error.message),
            ..error
        })
    }
}
