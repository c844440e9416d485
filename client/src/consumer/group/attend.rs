//! One stream to one controller: signs of life up, what the member owns down. A member has one to each, so that
//! whoever leads next knows it lives; only the leader's answers count.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use streamhouse_proto::v1;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;

use crate::clock;
use crate::retry::Backoff;
use crate::routing::{Client, ControllerPool};

/// BOUND: signs of life whose confirmation is waited for.
const UNCONFIRMED: usize = 64;
/// A controller that says nothing for so many intervals, and for this long at least, is given up.
const SILENT_INTERVALS: u32 = 4;
const SILENCE: Duration = Duration::from_secs(2);

/// What a controller said.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) answer: v1::AttendGroupResponse,
    /// When the sign of life that it confirms was sent, if it confirms one.
    pub(super) confirmed: Option<Instant>,
}

/// Attends at one controller until it is dropped.
pub(super) struct Attendance {
    pub(super) pool: Arc<ControllerPool>,
    pub(super) address: Arc<str>,
    /// Without its number.
    pub(super) sign: v1::AttendGroupRequest,
    pub(super) interval: Duration,
    pub(super) said: mpsc::Sender<Said>,
}

impl Attendance {
    pub(super) async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let reason = match self.pool.client(&self.address).await {
                Ok(client) => self.follow(client, &mut backoff).await,
                Err(error) => error,
            };
            if self.said.is_closed() {
                return;
            }
            tracing::debug!(controller = %self.address, reason, "a member's stream ended");
            self.pool.forget(&self.address);
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Follows one stream and says why it ended.
    async fn follow(&self, mut client: Client, backoff: &mut Backoff) -> String {
        let mut sent = Sent::default();
        let (signs, outgoing) = mpsc::channel(UNCONFIRMED);
        let mut beat = tokio::time::interval(self.interval);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.tick().await;
        let _ = signs.try_send(sent.next(&self.sign));
        let patience = (self.interval * SILENT_INTERVALS).max(SILENCE);
        let opened = client.attend_group(ReceiverStream::new(outgoing));
        let mut stream = match tokio::time::timeout(patience, opened).await {
            Ok(Ok(stream)) => stream.into_inner(),
            Ok(Err(status)) => return status.message().to_owned(),
            Err(_) => return "no answer".to_owned(),
        };
        let mut heard = clock::now();
        loop {
            tokio::select! {
                answer = stream.next() => match answer {
                    Some(Ok(answer)) => {
                        backoff.reset();
                        heard = clock::now();
                        let confirmed = sent.confirmed(answer.heard);
                        if self.said.send(Said { answer, confirmed }).await.is_err() {
                            return "the consumer is gone".to_owned();
                        }
                    }
                    Some(Err(status)) => return status.message().to_owned(),
                    None => return "the controller ended it".to_owned(),
                },
                _ = beat.tick() => {
                    if clock::now().duration_since(heard) > patience {
                        return format!("silent for {patience:?}");
                    }
                    // A full queue is a controller that does not read.
                    let _ = signs.try_send(sent.next(&self.sign));
                }
            }
        }
    }
}

/// When which sign of life was sent, the last [`UNCONFIRMED`] of them.
#[derive(Debug, Default)]
struct Sent {
    last: u64,
    at: VecDeque<(u64, Instant)>,
}

impl Sent {
    fn next(&mut self, sign: &v1::AttendGroupRequest) -> v1::AttendGroupRequest {
        self.last += 1;
        // Before it is sent: the lease must not run longer than the controllers' patience.
        self.at.push_back((self.last, clock::now()));
        if self.at.len() > UNCONFIRMED {
            self.at.pop_front();
        }
        v1::AttendGroupRequest { number: self.last, ..sign.clone() }
    }

    fn confirmed(&mut self, heard: u64) -> Option<Instant> {
        let mut found = None;
        while let Some((number, at)) = self.at.front().copied().filter(|(n, _)| *n <= heard) {
            if number == heard {
                found = Some(at);
            }
            self.at.pop_front();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_leader_has_heard_is_confirmed_and_once() {
        let mut sent = Sent::default();
        let sign = v1::AttendGroupRequest::default();
        for number in 1..=100 {
            assert_eq!(sent.next(&sign).number, number);
        }
        assert_eq!(sent.at.len(), UNCONFIRMED);
        assert!(sent.confirmed(0).is_none());
        let at = sent.at.iter().find(|(number, _)| *number == 90).map(|(_, at)| *at);
        assert_eq!(sent.confirmed(90), at);
        assert!(sent.confirmed(90).is_none() && sent.confirmed(50).is_none());
    }
}
