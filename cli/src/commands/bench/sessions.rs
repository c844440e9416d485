//! Agents that are none: sessions that hold leases and commit objects that nobody wrote.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use streamhouse_proto::v1;
use streamhouse_proto::v1::sessions_client::SessionsClient;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::link::{self, Controllers};

/// Slices of one commit, each of a partition of its own.
pub(super) const SLICES: usize = 8;
/// Records and bytes that a slice claims to have.
const RECORDS: u64 = 1_000;
const BYTES: u32 = 64 << 10;

const HEARTBEAT: Duration = Duration::from_millis(300);
const LEASES: Duration = Duration::from_secs(30);

/// One session, and what it holds.
pub(super) struct Session {
    id: u64,
    instance: Vec<u8>,
    client: SessionsClient<Channel>,
    leases: watch::Receiver<BTreeMap<u32, v1::Lease>>,
    /// Partition, epoch, next offset.
    held: Vec<(v1::TopicPartition, u32, u64)>,
    sequence: u64,
    /// Send heartbeats and listen; they end with the session.
    _tasks: JoinSet<()>,
}

impl Session {
    /// Registers and attaches at the controller that leads, by a connection of its own.
    pub(super) async fn open(
        controllers: &Controllers,
        group: &str,
        number: usize,
    ) -> anyhow::Result<Self> {
        let client = link::sessions(&controllers.leader).await?;
        Self::open_by(client, controllers, group, number).await
    }

    /// Registers and attaches by `client`.
    pub(super) async fn open_by(
        mut client: SessionsClient<Channel>,
        controllers: &Controllers,
        group: &str,
        number: usize,
    ) -> anyhow::Result<Self> {
        let instance = link::random_id();
        let request = v1::RegisterRequest {
            instance: instance.clone(),
            address: format!("{group}-{number}.invalid:1"),
            group: group.to_owned(),
            zone: String::new(),
            pid: std::process::id(),
            store_url: controllers.store_url.clone().unwrap_or_else(|| "memory://bench".into()),
            direct: false,
        };
        let id =
            client.register(request).await.map_err(link::failed("register"))?.into_inner().session;
        let (beat, beats) = mpsc::channel(4);
        let message = heartbeat(id, &instance);
        beat.send(message.clone()).await?;
        let stream = client.attach(ReceiverStream::new(beats)).await;
        let stream = stream.map_err(link::failed("attach"))?;
        let (told, leases) = watch::channel(BTreeMap::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(stream.into_inner(), told));
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(HEARTBEAT).await;
                if beat.send(message.clone()).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { id, instance, client, leases, held: Vec::new(), sequence: 0, _tasks: tasks })
    }

    /// The message that keeps it alive.
    pub(super) fn heartbeat(&self) -> v1::AttachRequest {
        heartbeat(self.id, &self.instance)
    }

    /// Waits until it holds as many partitions as a commit has slices.
    pub(super) async fn wait_for_leases(&mut self) -> anyhow::Result<()> {
        let enough = self.leases.wait_for(|leases| leases.len() >= SLICES);
        let leases = tokio::time::timeout(LEASES, enough).await;
        let leases = leases.context("the leases did not come in time")?.context("stream ended")?;
        let held = leases
            .values()
            .take(SLICES)
            .filter_map(|lease| Some((lease.partition.clone()?, lease.epoch, lease.next_offset)));
        self.held = held.collect();
        Ok(())
    }

    /// Commits the next object.
    pub(super) async fn commit(mut self) -> anyhow::Result<Self> {
        self.sequence += 1;
        let slices =
            self.held.iter().zip(0u64..).map(|((partition, epoch, next), n)| v1::SliceCommit {
                partition: Some(partition.clone()),
                lease_epoch: *epoch,
                base_offset: *next,
                last_offset: next + RECORDS - 1,
                record_count: RECORDS as u32,
                position: 64 + n * u64::from(BYTES),
                length: BYTES,
                crc32c: 1,
                ..v1::SliceCommit::default()
            });
        let object = v1::ObjectCommit {
            sequence: self.sequence,
            size: 64 + (SLICES as u64 + 1) * u64::from(BYTES),
            slices: slices.collect(),
            ..v1::ObjectCommit::default()
        };
        let request = v1::CommitObjectsRequest {
            session: self.id,
            instance: self.instance.clone(),
            objects: vec![object],
        };
        let answer =
            self.client.commit_objects(request).await.map_err(link::failed("commit"))?.into_inner();
        let Some(result) = answer.results.first() else { bail!("a commit without a result") };
        link::accepted("commit", result.error.as_ref())?;
        for ((_, epoch, next), slice) in self.held.iter_mut().zip(&result.slices) {
            link::accepted("commit of a slice", slice.error.as_ref())?;
            ensure!(slice.accepted, "a slice was refused");
            (*epoch, *next) = (slice.lease_epoch, slice.next_offset);
        }
        Ok(self)
    }

    /// What it has written: partition and next offset.
    pub(super) fn written(&self) -> impl Iterator<Item = (v1::TopicPartition, u64)> + '_ {
        self.held.iter().map(|(partition, _, next)| (partition.clone(), *next))
    }

    pub(super) async fn close(mut self) -> anyhow::Result<()> {
        let request = v1::CloseSessionRequest {
            request: Some(v1::RequestId { requester: self.instance.clone(), number: 1 }),
            session: self.id,
            instance: self.instance,
        };
        self.client.close_session(request).await.map_err(link::failed("close"))?;
        Ok(())
    }
}

fn heartbeat(session: u64, instance: &[u8]) -> v1::AttachRequest {
    v1::AttachRequest { session, instance: instance.to_vec() }
}

async fn listen(
    mut stream: Streaming<v1::AttachResponse>,
    told: watch::Sender<BTreeMap<u32, v1::Lease>>,
) {
    while let Ok(Some(news)) = stream.message().await {
        told.send_modify(|leases| {
            if news.full {
                leases.clear();
            }
            for lease in news.leases {
                if let Some(partition) = &lease.partition {
                    leases.insert(partition.partition, lease);
                }
            }
            for partition in news.lost.iter().filter_map(|lost| lost.partition.as_ref()) {
                leases.remove(&partition.partition);
            }
        });
    }
}
