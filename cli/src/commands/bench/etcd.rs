//! `streamhouse bench etcd`: the load of `bench metadata` on an etcd, so that the two can be compared in one sitting.
//!
//! An operation is one `Put` of etcd's API, version 3 (`etcdserverpb.KV` of its `rpc.proto`), by the same loop over the
//! same kind of connection: one for each client, clients spread over the endpoints. Every client overwrites a key of its
//! own, as a group overwrites its offset; the keys are deleted afterwards.

use futures::future::try_join_all;
use http::uri::PathAndQuery;
use serde::Serialize;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use super::figures::{Figures, drive};
use super::link;
use super::load::Load;
use crate::exit::{Failure, Kind};
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where etcd's members take clients' calls, without TLS.
    #[arg(long, value_name = "ADDR,…", value_delimiter = ',', default_value = "127.0.0.1:2379")]
    endpoints: Vec<String>,
    /// Bytes of a value.
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
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
        let put = self.put.clone();
        self.call("/etcdserverpb.KV/Put", put).await?;
        Ok(self)
    }

    async fn call<M>(&mut self, path: &'static str, message: M) -> anyhow::Result<()>
    where
        M: prost::Message + 'static,
    {
        let failed = |why: &dyn std::fmt::Display| {
            Failure::new(Kind::Failed, format!("etcd did not take {path}: {why}"))
        };
        self.grpc.ready().await.map_err(|error| failed(&error))?;
        let codec = ProstCodec::<M, Answer>::default();
        let path_and_query = PathAndQuery::from_static(path);
        let answer = self.grpc.unary(Request::new(message), path_and_query, codec).await;
        answer.map_err(|status| failed(&status.message()))?;
        Ok(())
    }
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
    let measured = async {
        for count in args.load.counts() {
            let connect = (0..count).map(|n| {
                let key = format!("{name}/{n}").into_bytes();
                let put = Put { key, value: vec![b'v'; args.value_bytes as usize] };
                Client::connect(&args.endpoints[n % args.endpoints.len()], put)
            });
            let clients = try_join_all(connect).await?;
            report.puts.push(drive(clients, window, Client::put).await?.0);
        }
        anyhow::Ok(())
    };
    let measured = measured.await;
    // Whatever became of it, nothing of it stays.
    let removed = remove(&args.endpoints[0], &name).await;
    measured?;
    removed?;
    format.print(&report, human)
}

/// Deletes the keys that begin with `name/`: those up to the one with the byte that follows the stroke.
async fn remove(endpoint: &str, name: &str) -> anyhow::Result<()> {
    let mut client = Client::connect(endpoint, Put::default()).await?;
    let (key, range_end) = (format!("{name}/").into_bytes(), format!("{name}0").into_bytes());
    client.call("/etcdserverpb.KV/DeleteRange", DeleteRange { key, range_end }).await
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
