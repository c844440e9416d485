//! The future of [`Producer::send`].
//!
//! Written by hand because it is made once per record: an `async fn` would carry the states of all that `send` may have
//! to wait for, and moving those about costs more than encoding the record.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;

use super::delivery::Delivery;
use super::error::ProduceError;
use super::handle::{Placing, Producer};
use super::record::Record;

/// Resolves when the record has its place in a batch. See [`Producer::send`].
#[must_use = "nothing is sent before this is awaited"]
pub struct Sending<'a> {
    producer: &'a Producer,
    state: State<'a>,
}

enum State<'a> {
    New(Record<'a>),
    /// There was no room, or the topic was not known.
    Waiting(BoxFuture<'a, Result<Delivery, ProduceError>>),
    Done,
}

impl<'a> Sending<'a> {
    #[inline]
    pub(super) fn new(producer: &'a Producer, record: Record<'a>) -> Self {
        Self { producer, state: State::New(record) }
    }
}

impl Future for Sending<'_> {
    type Output = Result<Delivery, ProduceError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::New(record) = &self.state {
            match self.producer.place(record) {
                Ok(Placing::Done(delivery)) => {
                    self.state = State::Done;
                    return Poll::Ready(Ok(delivery));
                }
                Ok(Placing::NoRoom | Placing::Gone | Placing::NotOpen) => self.wait(),
                Err(error) => {
                    self.state = State::Done;
                    return Poll::Ready(Err(error));
                }
            }
        }
        let State::Waiting(sent) = &mut self.state else {
            panic!("polled after it was ready");
        };
        let sent = std::task::ready!(sent.as_mut().poll(context));
        self.state = State::Done;
        Poll::Ready(sent)
    }
}

impl Sending<'_> {
    #[cold]
    fn wait(&mut self) {
        let producer = self.producer;
        if let State::New(record) = std::mem::replace(&mut self.state, State::Done) {
            self.state = State::Waiting(Box::pin(producer.send_patiently(record)));
        }
    }
}

impl fmt::Debug for Sending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").finish_non_exhaustive()
    }
}
