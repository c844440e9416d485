//! `streamhouse bench etcd`: the load of `bench metadata`'s offset commits on an etcd, so that the two can be compared in one
//! sitting.
//!
//! An operation is one `Put` of etcd's API, version 3 (`etcdserverpb.KV` of its `rpc.proto`), by the same loop over the
//! same kind of connection: one for each client, clients spread over the endpoints. Every client overwrites a key of its
//! own, as a group overwrites its offset. The keys are deleted afterwards; their revisions etcd keeps until it is compacted.

use std::time::Duration;

use anyhow::Context as _;
use futures::future::try_join_all;
use http::uri::PathAndQuery;
use serde::Serialize;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::figures::{Figures, drive};
use super::link;
use super::load::Load;
use super::made;
use crate::controllers;
use crate::exit::{Failure, Kind};
use crate::output::{self, Format};

/// Without an answer for so long, an operation has failed.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where etcd's members take clients' calls, without TLS.
    #[arg(long, value_name = "ADDR,…", value_delimiter = ',', default_value = "127.0.0.1:2379")]
    #[arg(value_parser = controllers::address)]
    endpoints: Vec<String>,
    /// Bytes of a value.
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    value_bytes: u32,
    #[command(flatten)]
    load: Load,
}

#[derive(Debug, Serialize)]
struct Report {
    endpoints: usize,
    value_bytes: u32,
    measure_s: f64,
    warm_up_s: f64,
    puts: Vec<Figures>,
}

/// `etcdserverpb.PutRequest`, without what is not used.
#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.DeleteRangeRequest`, without what is not used.
#[derive(Clone, PartialEq, prost::Message)]
struct DeleteRange {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
}

/// What is answered does not matter once it is no error.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {}

struct Client {
    grpc: Grpc<Channel>,
    put: Put,
}

impl Client {
    async fn connect(endpoint: &str, put: Put) -> anyhow::Result<Self> {
        Ok(Self { grpc: Grpc::new(link::connect("etcd", endpoint).await?), put })
    }

    async fn put(mut self) -> anyhow::Result<Self> {
        call(&mut self.grpc, "/etcdserverpb.KV/Put", self.put.clone()).await?;
        Ok(self)
    }
}

async fn call<M>(grpc: &mut Grpc<Channel>, path: &'static str, message: M) -> Result<(), Failure>
where
    M: prost::Message + 'static,
{
    let ready = grpc.ready().await;
    ready.map_err(|error| Failure::new(Kind::Unavailable, format!("etcd: {path}: {error}")))?;
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    let codec = ProstCodec::<M, Answer>::default();
    let answer = grpc.unary(request, PathAndQuery::from_static(path), codec).await;
    answer.map(drop).map_err(|status| {
        let kind = match status.code() {
            // Unknown: the connection broke.
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                Kind::Unavailable
            }
            _ => Kind::Failed,
        };
        let (code, message) = (status.code(), status.message());
        Failure::new(kind, format!("etcd: {path}: {code:?}: {message}"))
    })
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let window = args.load.window();
    let name = link::unique_name();
    let mut report = Report {
        endpoints: args.endpoints.len(),
        value_bytes: args.value_bytes,
        measure_s: window.measure.as_secs_f64(),
        warm_up_s: window.warm_up.as_secs_f64(),
        puts: Vec::new(),
    };
    let mut connected = false;
    let measured = async {
        for count in args.load.counts() {
            let connect = (0..count).map(|n| {
                let key = format!("{name}/{n}").into_bytes();
                let put = Put { key, value: vec![b'v'; args.value_bytes as usize] };
                Client::connect(&args.endpoints[n % args.endpoints.len()], put)
            });
            let clients = try_join_all(connect).await?;
            connected = true;
            report.puts.push(drive(clients, window, Client::put).await?.0);
        }
        anyhow::Ok(())
    };
    let measured = measured.await;
    // Whatever became of it, no key of it stays.
    let removed = match connected {
        true => remove(&args.endpoints, &name).await,
        false => Ok(()),
    };
    made::ended(measured, removed)?;
    format.print(&report, human)
}

/// Deletes the keys that begin with `name/`, by the first endpoint that does.
async fn remove(endpoints: &[String], name: &str) -> anyhow::Result<()> {
    let mut removed = Ok(());
    for endpoint in endpoints {
        removed = remove_by(endpoint, name).await;
        if removed.is_ok() {
            break;
        }
    }
    removed.with_context(|| format!("keys that begin with {name}/ are left in etcd"))
}

/// Those up to the one with the byte that follows the slash.
async fn remove_by(endpoint: &str, name: &str) -> anyhow::Result<()> {
    let mut grpc = Grpc::new(link::connect("etcd", endpoint).await?);
    let (key, range_end) = (format!("{name}/").into_bytes(), format!("{name}0").into_bytes());
    call(&mut grpc, "/etcdserverpb.KV/DeleteRange", DeleteRange { key, range_end }).await?;
    Ok(())
}

fn human(report: &Report) -> String {
    let mut table = output::table(["", "clients", "per second", "p50 ms", "p99 ms", "max ms"]);
    for figures in &report.puts {
        table.add_row(figures.row("puts"));
    }
    format!(
        "{} endpoints of an etcd · values of {} bytes · {} s each, after {} s\n{table}",
        report.endpoints, report.value_bytes, report.measure_s, report.warm_up_s
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn what_is_sent_is_what_etcd_reads() {
        let put = Put { key: b"k".to_vec(), value: b"v".to_vec() };
        assert_eq!(put.encode_to_vec(), b"\x0a\x01k\x12\x01v");
        let range = DeleteRange { key: b"k/".to_vec(), range_end: b"k0".to_vec() };
        assert_eq!(range.encode_to_vec(), b"\x0a\x02k/\x12\x02k0");
    }
}
