//! What the leader says: that the member lives, what it owns, and that it is a member no more. And giving back what it
//! asks for.

use std::collections::BTreeSet;
use std::sync::Arc;

use streamhouse_proto::v1;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Membership, Over, SAID, Streams};
use crate::clock;
use crate::consumer::group::Event;
use crate::consumer::group::attend::{Attendance, Said};
use crate::consumer::group::core::{Grant, Key, Steps};
use crate::convert;
use crate::errors::Code;
use crate::routing::Client;

impl Membership {
    pub(super) fn attend(&self) -> Streams {
        let (say, said) = mpsc::channel(SAID);
        let (tasks, addresses) = (JoinSet::new(), BTreeSet::new());
        let mut streams = Streams { tasks, addresses, said, say, term: 0 };
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
        // A deposed leader may not know it yet.
        if !answer.leader || answer.term < streams.term {
            return None;
        }
        streams.term = answer.term;
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
            let steps = self.core.told(granted);
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
        let Steps { lost, revoked, assigned, release } = steps;
        if !lost.is_empty() {
            self.outgoing.push_back(Event::Lost(lost));
        }
        if !revoked.is_empty() {
            self.outgoing.push_back(Event::Revoked(revoked));
        }
        if !assigned.is_empty() {
            self.outgoing.push_back(Event::Assigned(assigned, self.epoch));
        }
        if !release.is_empty() {
            self.release(&release);
        }
    }

    pub(super) fn lose_all(&mut self) {
        self.releases.abort_all();
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
        let pool = self.metadata.pool.clone();
        self.releases.spawn(async move {
            loop {
                let released = pool.call("release partitions", |mut client: Client| {
                    let request = request.clone();
                    async move { client.release_partitions(request).await }
                });
                match released.await {
                    Ok(_) => return false,
                    Err(error) if error.retryable() => {
                        tracing::debug!(%error, "partitions are not released yet");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "releasing partitions failed");
                        return error.code() == Some(Code::FencedMember);
                    }
                }
            }
        });
    }
}

fn granted(wire: v1::OwnedPartition) -> Option<(Key, Grant)> {
    let partition = wire.partition?;
    let topic = convert::topic_id(&partition.topic_id).ok()?;
    let grant = Grant { epoch: wire.granted_epoch, revoking: wire.revoking };
    Some(((topic, partition.partition), grant))
}
