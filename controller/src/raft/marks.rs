//! How far the disks of all members have got, as the leader sees it, written
//! into the log once a second while that moves. A controller that starts
//! learns from it whether its disk lost something: see [`super::admission`].

use super::node::RaftNode;
use super::types::{DiskId, Entry, LogId, TypeConfig};
use crate::codec;
use crate::state::command::{Command, CommandBody};
use crate::state::controllers::{self, DiskMark, Mark};
use crate::state::kv::KvError;
use crate::state::reply::Reply;
use openraft::{EntryPayload, RaftMetrics};
use std::collections::BTreeMap;

/// Marks by disk.
pub(crate) type Marks = BTreeMap<DiskId, Mark>;

/// Adds what a log entry says, applied or not: what the leader saw then is
/// true whatever became of the entry.
pub(crate) fn gather(entry: &Entry, marks: &mut Marks) {
    let EntryPayload::Normal(command) = &entry.payload else { return };
    // One that this release cannot read is reported when it is applied.
    let Ok(Command { body: CommandBody::MarkDisks(found), .. }) = codec::decode(&command.0) else {
        return;
    };
    for DiskMark { disk, mark } in found {
        marks.entry(disk).and_modify(|known| *known = known.later(mark)).or_insert(mark);
    }
}

/// Writes marks while this node leads, until it stops.
pub(crate) async fn watch(node: RaftNode) {
    let core = node.core();
    let leadership = node.leadership();
    let mut last_mark = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(core.options.mark_every) => {}
            () = core.cancel.cancelled() => return,
        }
        if !leadership.borrow().is_leader {
            continue;
        }
        let mut marks = current(&node);
        let news = has_news(&node, &marks, last_mark);
        match news.and_then(|news| Ok((news, kept(&node, &marks)?))) {
            Ok((true, kept)) => marks.extend(kept),
            Ok((false, _)) => continue,
            Err(error) => {
                tracing::warn!(%error, "what is known of the disks cannot be read");
                continue;
            }
        }
        match node.propose_local(None, CommandBody::MarkDisks(marks)).await {
            Ok((index, Reply::Done)) => last_mark = index,
            Ok((_, reply)) => tracing::warn!(?reply, "the disks' marks were refused"),
            Err(error) => tracing::debug!(%error, "the disks' marks were not written"),
        }
    }
}

/// Whether the log holds more than marks that the state's marks do not cover.
fn has_news(node: &RaftNode, marks: &[DiskMark], last_mark: u64) -> Result<bool, KvError> {
    let last = node.core().log.last_index();
    let goal = if last == last_mark { last.saturating_sub(1) } else { last };
    let view = node.try_view()?;
    for now in marks {
        let known = controllers::mark(&view, &now.disk)?;
        if known.is_none_or(|known| known.later(now.mark) != known && known.matched_index < goal) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The known marks of members that this leader has not heard of: the state
/// forgets what is not said again, and theirs must not be.
fn kept(node: &RaftNode, marks: &[DiskMark]) -> Result<Vec<DiskMark>, KvError> {
    let members: Vec<DiskId> = node.with_metrics(|metrics| {
        metrics.membership_config.membership().nodes().map(|(_, member)| member.disk).collect()
    });
    let view = node.try_view()?;
    let unseen = members.into_iter().filter(|disk| marks.iter().all(|mark| mark.disk != *disk));
    let known =
        unseen.map(|disk| Ok(controllers::mark(&view, &disk)?.map(|mark| DiskMark { disk, mark })));
    known.filter_map(Result::transpose).collect()
}

/// What the leader sees now.
pub(crate) fn current(node: &RaftNode) -> Vec<DiskMark> {
    let durable = node.core().log.durable();
    node.with_metrics(|metrics| {
        let members = metrics.membership_config.membership().nodes();
        let marks = members.filter_map(|(id, member)| {
            let matched = matched(metrics, *id, durable)?;
            let mark = Mark {
                node: *id,
                term: metrics.current_term,
                matched_term: matched.leader_id.term,
                matched_index: matched.index,
            };
            Some(DiskMark { disk: member.disk, mark })
        });
        marks.collect()
    })
}

fn matched(metrics: &RaftMetrics<TypeConfig>, node: u64, durable: Option<LogId>) -> Option<LogId> {
    if node == metrics.id {
        return durable;
    }
    metrics.replication.as_ref()?.get(&node).copied().flatten()
}

/// The latest that this node knows of `disk`; whoever cannot read what it
/// knows must not say that it knows nothing.
pub(crate) async fn known(node: &RaftNode, disk: &DiskId) -> Result<Option<Mark>, KvError> {
    let core = node.core();
    // The log first: what is applied and purged meanwhile is in the state.
    let applied = *core.applied.index.borrow();
    let logged = core.log.logged_mark(disk, applied).await.map_err(|e| KvError(e.to_string()))?;
    let applied = controllers::mark(&node.try_view()?, disk)?;
    let leads = core.leadership.borrow().is_leader;
    let seen = if leads { current(node) } else { Vec::new() };
    let seen = seen.into_iter().find(|marked| marked.disk == *disk).map(|marked| marked.mark);
    Ok([applied, logged, seen].into_iter().flatten().reduce(Mark::later))
}
