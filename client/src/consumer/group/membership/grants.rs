//! What the leader says: that the member lives, what it owns, and that it is a member no more. And giving back what it
//! asks for.

use std::collections::BTreeSet;
use std::sync::Arc;

use streamhouse_proto::v1;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use super::{Membership, Over, SAID, Streams};
use crate::clock;
use crate::consumer::group::Event;
use crate::consumer::group::attend::{Attendance, Said};
use crate::consumer::group::core::{Grant, Key, Steps};
use crate::convert;
use crate::errors::{CallError, Code};
use crate::routing::{Client, MAX_OFFSETS};

/// What was released, and as of which log index that was answered.
pub(super) type Released = (Vec<(Key, u32)>, Result<u64, CallError>);

/// How far the leaders' word has come, on whichever stream.
#[derive(Debug, Default)]
pub(super) struct Progress {
    term: u64,
    applied: u64,
}

impl Progress {
    /// A controller that does not know of the joining yet has nothing to say.
    pub(super) fn joined(applied: u64) -> Self {
        Self { term: 0, applied }
    }

    /// GROUP: whether the answer is the leader's, and not of the past: a deposed leader may not know it yet, and of two
    /// streams to one leader the slower one tells what is over.
    fn counts(&mut self, answer: &v1::AttendGroupResponse) -> bool {
        if !answer.leader || answer.term < self.term || answer.applied < self.applied {
            return false;
        }
        self.term = answer.term;
        if answer.assignment {
            self.applied = answer.applied;
        }
        true
    }
}

impl Membership {
    pub(super) fn attend(&self) -> Streams {
        let (say, said) = mpsc::channel(SAID);
        let (tasks, addresses) = (JoinSet::new(), BTreeSet::new());
        let mut streams = Streams { tasks, addresses, said, say };
        self.attend_at(&mut streams, self.metadata.pool.addresses());
        streams
    }

    fn attend_at(&self, streams: &mut Streams, addresses: impl IntoIterator<Item = Arc<str>>) {
        for address in addresses {
            if !streams.addresses.insert(address.clone()) {
                continue;
            }
            let attendance = Attendance {
                pool: self.metadata.pool.clone(),
                address,
                sign: v1::AttendGroupRequest {
                    group: self.group.to_string(),
                    member_id: self.member.to_vec(),
                    number: 0,
                    session_timeout_ms: self.options.session_timeout_ms(),
                    instance_id: self.instance(),
                },
                interval: self.options.heartbeat(),
                said: streams.say.clone(),
            };
            streams.tasks.spawn(attendance.run());
        }
    }

    pub(super) fn heard(&mut self, said: Said, streams: &mut Streams) -> Option<Over> {
        let answer = said.answer;
        self.metadata.pool.learn(answer.controllers.iter().map(|address| &**address));
        // One may have taken another's place.
        self.attend_at(streams, self.metadata.pool.addresses());
        if !self.progress.counts(&answer) {
            return None;
        }
        if answer.fenced {
            return Some(if answer.replaced { Over::Replaced } else { Over::Fenced });
        }
        if let Some(sent) = said.confirmed {
            self.lease.extend(sent + self.options.session_timeout);
        }
        if answer.assignment && clock::now() >= self.lease.until() {
            // GROUP: said by one who has not confirmed for too long that the member lives.
            self.stale = true;
        } else if answer.assignment {
            self.metadata.pool.observe(answer.applied);
            self.epoch = answer.group_epoch;
            let granted = answer.partitions.into_iter().filter_map(granted).collect();
            let steps = self.core.told(answer.applied, granted);
            self.take(steps);
        }
        if !answer.assigning && !self.settled {
            self.settled = true;
            self.outgoing.push_back(Event::Settled);
        }
        None
    }

    /// Does what follows.
    pub(super) fn take(&mut self, steps: Steps) {
        let Steps { lost, revoked, assigned, release, ask } = steps;
        self.stale |= ask;
        if !lost.is_empty() {
            self.outgoing.push_back(Event::Lost(lost));
        }
        if !revoked.is_empty() {
            self.outgoing.push_back(Event::Revoked(revoked));
        }
        if !assigned.is_empty() {
            self.outgoing.push_back(Event::Assigned(assigned, self.epoch));
        }
        for some in release.chunks(MAX_OFFSETS) {
            self.release(some);
        }
    }

    pub(super) fn lose_all(&mut self) {
        let steps = self.core.forget();
        self.take(steps);
    }

    fn release(&mut self, released: &[(Key, u32)]) {
        let owned = released.iter().map(|((topic, partition), epoch)| v1::OwnedPartition {
            partition: Some(convert::topic_partition(*topic, *partition)),
            granted_epoch: *epoch,
            revoking: true,
        });
        let request = v1::ReleasePartitionsRequest {
            request: Some(self.requester.next()),
            group: self.group.to_string(),
            member_id: self.member.to_vec(),
            partitions: owned.collect(),
        };
        let (pool, released) = (self.metadata.pool.clone(), released.to_vec());
        self.releases.spawn(async move {
            loop {
                let answer = pool.call("release partitions", |mut client: Client| {
                    let request = request.clone();
                    async move { client.release_partitions(request).await }
                });
                match answer.await {
                    Err(error) if error.retryable() => {
                        tracing::debug!(%error, "partitions are not released yet");
                    }
                    answer => return (released, answer.map(|answer| answer.applied)),
                }
            }
        });
    }

    pub(super) async fn released(&mut self, released: Result<Released, JoinError>) -> Option<Over> {
        let (error, fenced) = match released {
            Ok((partitions, Ok(applied))) => {
                let steps = self.core.released(&partitions, applied);
                self.take(steps);
                return None;
            }
            Ok((_, Err(error))) => (error.to_string(), error.code() == Some(Code::FencedMember)),
            Err(error) => (error.to_string(), false),
        };
        // GROUP: what it owns is in doubt. What the next membership owns is not.
        tracing::warn!(group = %self.group, error, "releasing partitions failed");
        if !fenced {
            self.lose_all();
            self.lease.end();
            self.leave().await;
        }
        Some(Over::Fenced)
    }
}

fn granted(wire: v1::OwnedPartition) -> Option<(Key, Grant)> {
    let partition = wire.partition?;
    let topic = convert::topic_id(&partition.topic_id).ok()?;
    let grant = Grant { epoch: wire.granted_epoch, revoking: wire.revoking };
    Some(((topic, partition.partition), grant))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(term: u64, applied: u64) -> v1::AttendGroupResponse {
        let assignment = true;
        v1::AttendGroupResponse { leader: true, term, applied, assignment, ..Default::default() }
    }

    #[test]
    fn what_another_stream_to_the_leader_has_overtaken_does_not_count() {
        let mut progress = Progress::joined(90);
        assert!(!progress.counts(&said(3, 80)), "before its joining");
        assert!(progress.counts(&said(3, 110)));
        assert!(!progress.counts(&said(3, 100)));
        // Said again, by the next leader too.
        assert!(progress.counts(&said(3, 110)) && progress.counts(&said(4, 110)));
        // A confirmation tells nothing of what is owned: what was to be told before it may still come.
        assert!(progress.counts(&v1::AttendGroupResponse { assignment: false, ..said(4, 130) }));
        assert!(progress.counts(&said(4, 120)));
    }

    #[test]
    fn a_deposed_leader_does_not_count_however_far_it_has_come() {
        let mut progress = Progress::joined(90);
        assert!(progress.counts(&said(4, 100)));
        assert!(!progress.counts(&said(3, 120)));
        assert!(!progress.counts(&v1::AttendGroupResponse { leader: false, ..said(5, 120) }));
        assert!(progress.counts(&said(4, 100)));
    }
}
