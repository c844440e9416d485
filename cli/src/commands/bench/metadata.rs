//! `streamhouse bench metadata`: how fast the controllers are, alone.
//!
//! Commits come from sessions that hold leases of a topic made for the purpose, in an agent group of its own, so that
//! the cluster's agents have nothing to do with it; nothing is written to the object store. Every client has a
//! connection of its own: commits to the controller that leads, as agents send them; everything else spread over all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use streamhouse_client::Admin;
use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_proto::v1::sessions_client::SessionsClient;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::figures::{Figures, Window, drive, rounded};
use super::link::{self, Controllers};
use super::load::Load;
use super::made::{self, Made};
use super::sessions::{SLICES, Session};
use crate::exit::{Failure, Kind};
use crate::output::{self, Format};
use crate::{clock, controllers};

/// Clients of the look-ups, and connections of the heartbeats.
const READERS: usize = 64;
/// Sessions that send heartbeats by one connection: 256 in all.
const SHARED: usize = 4;
/// Heartbeats of a stream at once, and how often: 500 a second. A controller ends a stream beyond 1,000, counted as it reads
/// them, so it may fall two seconds behind.
const BEATS: u64 = 5;
const BEATS_EVERY: Duration = Duration::from_millis(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    controllers: controllers::Controllers,
}

#[derive(Debug, Serialize)]
struct Report {
    controllers: usize,
    slices_per_commit: usize,
    measure_s: f64,
    warm_up_s: f64,
    /// An object with its slices.
    commits: Vec<Figures>,
    /// One offset of one group.
    offset_commits: Vec<Figures>,
    heartbeats_per_second: f64,
    lookups: Lookups,
}

#[derive(Debug, Default, Serialize)]
struct Lookups {
    /// From the applied state of the controller that is asked.
    local: Figures,
    linearizable: Figures,
}

pub(crate) async fn run(args: Args, format: Format) -> anyhow::Result<()> {
    let seeds = args.controllers.resolve()?;
    let admin = Admin::builder().controllers(seeds.clone()).build()?;
    let controllers = Controllers::find(seeds).await?;
    let window = args.load.window();
    let mut report = Report {
        controllers: controllers.addresses.len(),
        slices_per_commit: SLICES,
        measure_s: window.measure.as_secs_f64(),
        warm_up_s: window.warm_up.as_secs_f64(),
        commits: Vec::new(),
        offset_commits: Vec::new(),
        heartbeats_per_second: 0.0,
        lookups: Lookups::default(),
    };
    let mut made = Made::default();
    let measured = measure(&args.load, &admin, &controllers, &mut report, &mut made).await;
    // Whatever became of it, nothing of it stays.
    let removed = made.remove(&admin).await;
    made::ended(measured, removed.map_err(Into::into))?;
    format.print(&report, human)
}

/// One measurement after the other. `made`: what may be there after it.
async fn measure(
    load: &Load,
    admin: &Admin,
    controllers: &Controllers,
    report: &mut Report,
    made: &mut Made,
) -> anyhow::Result<()> {
    let window = load.window();
    let name = link::unique_name();
    let mut written = Vec::new();
    for count in load.counts() {
        let topic = format!("{name}-{count}");
        made.topics.push(topic.clone());
        let (figures, some) = commits(admin, controllers, &topic, count, window).await?;
        report.commits.push(figures);
        written = some;
        let partition = written.first().context("nothing was written")?.0.clone();
        let groups: Vec<_> = (0..count).map(|n| format!("{name}-{count}-{n}")).collect();
        made.groups.extend_from_slice(&groups);
        let figures = offsets(controllers, groups, &partition, window).await?;
        report.offset_commits.push(figures);
    }
    let written = Arc::new(written);
    report.lookups.local = lookups(controllers, &written, false, window).await?;
    report.lookups.linearizable = lookups(controllers, &written, true, window).await?;
    report.heartbeats_per_second = heartbeats(controllers, &format!("{name}-beat"), window).await?;
    Ok(())
}

type Written = Vec<(v1::TopicPartition, u64)>;

async fn commits(
    admin: &Admin,
    controllers: &Controllers,
    topic: &str,
    count: usize,
    window: Window,
) -> anyhow::Result<(Figures, Written)> {
    let open = (0..count).map(|n| Session::open(controllers, topic, n));
    let mut sessions = try_join_all(open).await?;
    let config = BTreeMap::from([("agent.group".to_owned(), topic.to_owned())]);
    admin.create_topic(topic, u32::try_from(count * SLICES)?, config).await?;
    for session in &mut sessions {
        session.wait_for_leases().await?;
    }
    let (figures, sessions) = drive(sessions, window, Session::commit).await?;
    let written = sessions.iter().flat_map(Session::written).collect();
    try_join_all(sessions.into_iter().map(Session::close)).await?;
    Ok((figures, written))
}

/// A consumer that commits where it is.
struct Committer {
    client: MetadataClient<Channel>,
    requester: Vec<u8>,
    number: u64,
    group: String,
    partition: v1::TopicPartition,
}

impl Committer {
    async fn commit(mut self) -> anyhow::Result<Self> {
        self.number += 1;
        let request = v1::RequestId { requester: self.requester.clone(), number: self.number };
        let offset = v1::OffsetCommit {
            partition: Some(self.partition.clone()),
            offset: self.number,
            metadata: String::new(),
        };
        let request = v1::CommitOffsetsRequest {
            request: Some(request),
            group: self.group.clone(),
            offsets: vec![offset],
            ..v1::CommitOffsetsRequest::default()
        };
        let answer = self.client.commit_offsets(request).await;
        let answer = answer.map_err(link::failed("commit of an offset"))?;
        for result in &answer.into_inner().results {
            link::accepted("commit of an offset", Some(result))?;
        }
        Ok(self)
    }
}

async fn offsets(
    controllers: &Controllers,
    groups: Vec<String>,
    partition: &v1::TopicPartition,
    window: Window,
) -> anyhow::Result<Figures> {
    let committers = groups.into_iter().enumerate().map(|(n, group)| async move {
        anyhow::Ok(Committer {
            client: link::metadata(controllers.spread(n)).await?,
            requester: link::random_id(),
            number: 0,
            group,
            partition: partition.clone(),
        })
    });
    let committers = try_join_all(committers).await?;
    Ok(drive(committers, window, Committer::commit).await?.0)
}

/// Heartbeats that the leader has read, of 128,000 a second: 256 sessions, each with a second stream that sends half as
/// often as a stream may. Agents send 3 a second.
async fn heartbeats(controllers: &Controllers, group: &str, window: Window) -> anyhow::Result<f64> {
    let connect = (0..READERS).map(|_| link::sessions(&controllers.leader));
    let clients = try_join_all(connect).await?;
    let open = (0..READERS * SHARED).map(|n| {
        let client = clients[n % READERS].clone();
        Session::open_by(client, controllers, group, n)
    });
    // Not all at once, which would be a measurement of its own.
    let sessions: Vec<_> = stream::iter(open).buffered(READERS).try_collect().await?;
    let begin = clock::now();
    let end = begin + window.measure;
    let mut streams = JoinSet::new();
    for (n, session) in sessions.iter().enumerate() {
        streams.spawn(beat(clients[n % READERS].clone(), session.heartbeat(), end));
    }
    let mut sent = 0;
    while let Some(ended) = streams.join_next().await {
        sent += ended??;
    }
    let took = clock::now() - begin;
    try_join_all(sessions.into_iter().map(Session::close)).await?;
    Ok(rounded(sent as f64 / took.as_secs_f64()))
}

/// How many heartbeats were sent until `end`, once all of them were read: that is when the controller ends the stream.
async fn beat(
    mut client: SessionsClient<Channel>,
    heartbeat: v1::AttachRequest,
    end: Instant,
) -> anyhow::Result<u64> {
    let (beat, beats) = mpsc::channel(BEATS as usize);
    beat.send(heartbeat.clone()).await?;
    let answers = client.attach(ReceiverStream::new(beats)).await;
    let mut answers = answers.map_err(link::failed("attach"))?.into_inner();
    let send = async {
        let mut sent = 1;
        let mut tick = tokio::time::interval(BEATS_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while clock::now() < end {
            tick.tick().await;
            for _ in 0..BEATS {
                // Refused: the answers say why.
                if beat.send(heartbeat.clone()).await.is_err() {
                    return sent;
                }
            }
            sent += BEATS;
        }
        drop(beat);
        sent
    };
    let listen = async {
        while let Some(answer) = answers.message().await.map_err(link::failed("heartbeats"))? {
            if !answer.leader || answer.ended {
                let what = "the controller leads no more, or ended a session: nothing was measured";
                return Err(anyhow::Error::from(Failure::new(Kind::Unavailable, what)));
            }
        }
        ensure!(clock::now() >= end, "the heartbeats' stream ended");
        Ok(())
    };
    let (sent, heard) = tokio::join!(send, listen);
    heard.map(|()| sent)
}

struct Reader {
    client: MetadataClient<Channel>,
    written: Arc<Written>,
    /// State of a linear congruential generator (Knuth's MMIX): any spread of offsets will do.
    random: u64,
    linearizable: bool,
}

impl Reader {
    async fn look_up(mut self) -> anyhow::Result<Self> {
        const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
        self.random = self.random.wrapping_mul(MULTIPLIER).wrapping_add(1_442_695_040_888_963_407);
        let random = self.random >> 33;
        let (partition, next) = &self.written[random as usize % self.written.len()];
        let range = v1::SegmentRange {
            partition: Some(partition.clone()),
            offset: random % (*next).max(1),
            max_segments: 1,
            max_bytes: 0,
            from_timestamp_ms: None,
        };
        let request = v1::FindSegmentsRequest {
            ranges: vec![range],
            min_applied: 0,
            linearizable: self.linearizable,
        };
        let answer = self.client.find_segments(request).await;
        let answer = answer.map_err(link::failed("look-up"))?.into_inner();
        let found = answer.plans.first().is_some_and(|plan| plan.segments.len() == 1);
        ensure!(found, "a look-up found nothing");
        Ok(self)
    }
}

async fn lookups(
    controllers: &Controllers,
    written: &Arc<Written>,
    linearizable: bool,
    window: Window,
) -> anyhow::Result<Figures> {
    let readers = (0..READERS).map(|n| {
        let written = Arc::clone(written);
        async move {
            let client = link::metadata(controllers.spread(n)).await?;
            anyhow::Ok(Reader { client, written, random: n as u64, linearizable })
        }
    });
    let readers = try_join_all(readers).await?;
    Ok(drive(readers, window, Reader::look_up).await?.0)
}

fn human(report: &Report) -> String {
    let mut table = output::table(["", "clients", "per second", "p50 ms", "p99 ms", "max ms"]);
    let commits = report.commits.iter().map(|figures| ("commits", figures));
    let offsets = report.offset_commits.iter().map(|figures| ("offset commits", figures));
    let lookups = [
        ("look-ups, local", &report.lookups.local),
        ("look-ups, linearizable", &report.lookups.linearizable),
    ];
    for (what, figures) in commits.chain(offsets).chain(lookups) {
        table.add_row(figures.row(what));
    }
    format!(
        "{} controllers · {} slices a commit · {} s each, after {} s\n{table}\n{} heartbeats a second",
        report.controllers,
        report.slices_per_commit,
        report.measure_s,
        report.warm_up_s,
        output::count(report.heartbeats_per_second as u64)
    )
}
