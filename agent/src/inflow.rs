//! What producers are still sending: a pool that bounds the memory of all messages which have not been taken over into
//! the buffer budget yet.
//!
//! BOUND: gRPC makes room for a whole message as soon as it has read the message's length. So the bytes of a stream
//! pass through here first: the five bytes in front of a message are held back until the pool has given the message
//! its share, which is given back when the [service](crate::service) has taken the message's batches over. A stream has
//! one message under way at a time and waits for nothing else while that is on its way here, so that streams cannot
//! keep each other waiting for ever; one that does not finish a message in time is ended. Idle streams hold nothing.

use bytes::{Buf, Bytes};
use http_body::Frame;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use streamhouse_proto::v1::{ErrorCode, ErrorInfo};
use streamhouse_proto::{MAX_MESSAGE_BYTES, to_status};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

/// How many bytes of messages of all producers may be under way at once.
pub(crate) const POOL_BYTES: usize = 64 << 20;
/// How long a message may take from its first byte to its last.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// In front of every gRPC message: a flag and the length, big-endian.
const PREFIX_BYTES: usize = 5;

const _: () = assert!(POOL_BYTES >= MAX_MESSAGE_BYTES && POOL_BYTES <= u32::MAX as usize);

/// The pool, one permit a byte.
pub(crate) type Pool = Arc<Semaphore>;

/// What the pool has given to the message that a stream has under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Share(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Share {
    /// The length of the message, of which it has not been given back yet.
    pub(crate) fn bytes(&self) -> usize {
        let permit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    #[cfg(test)]
    pub(crate) async fn of_message(bytes: usize) -> Self {
        let share = Self::default();
        let pool = Arc::new(Semaphore::new(bytes));
        share.set(Some(pool.acquire_many_owned(bytes as u32).await.expect("it is open")));
        share
    }

    /// The message has been taken over.
    pub(crate) fn give_back(&self) {
        self.set(None);
    }

    fn set(&self, permit: Option<OwnedSemaphorePermit>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }
}

/// A gRPC service whose requests' bodies go through the pool; it finds its [`Share`] among the request's extensions.
#[derive(Debug, Clone)]
pub(crate) struct Metered<S> {
    inner: S,
    pool: Pool,
}

impl<S> Metered<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, pool: Arc::new(Semaphore::new(POOL_BYTES)) }
    }
}

impl<S: NamedService> NamedService for Metered<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Metered<S>
where
    S: Service<http::Request<Body>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        let share = Share::default();
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(share.clone());
        let body = Body::new(MeteredBody::new(body, Arc::clone(&self.pool), share));
        self.inner.call(http::Request::from_parts(parts, body))
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// A request's body, passed on message by message.
struct MeteredBody {
    inner: Body,
    pool: Pool,
    share: Share,
    /// What came and was not passed on yet.
    came: Bytes,
    prefix: [u8; PREFIX_BYTES],
    prefix_len: usize,
    /// Bytes of the current message that are still to be passed on.
    left: usize,
    waiting: Option<Waiting>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl MeteredBody {
    fn new(inner: Body, pool: Pool, share: Share) -> Self {
        Self {
            inner,
            pool,
            share,
            came: Bytes::new(),
            prefix: [0; PREFIX_BYTES],
            prefix_len: 0,
            left: 0,
            waiting: None,
            deadline: None,
        }
    }

    /// Passes on what belongs to the current message, or begins the next one.
    fn advance(&mut self) -> Option<Frame<Bytes>> {
        if self.left > 0 {
            let data = self.came.split_to(self.left.min(self.came.len()));
            self.left -= data.len();
            return Some(Frame::data(data));
        }
        while self.prefix_len < PREFIX_BYTES && self.came.has_remaining() {
            self.prefix[self.prefix_len] = self.came.get_u8();
            self.prefix_len += 1;
        }
        if let [_, length @ ..] = self.prefix
            && self.prefix_len == PREFIX_BYTES
        {
            self.prefix_len = 0;
            self.left = u32::from_be_bytes(length) as usize;
            // What is over the limit is refused as soon as its length has been read.
            let share = if self.left > MAX_MESSAGE_BYTES { 0 } else { self.left as u32 };
            self.waiting = Some(Box::pin(Arc::clone(&self.pool).acquire_many_owned(share)));
        }
        None
    }
}

impl http_body::Body for MeteredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some(waiting) = &mut this.waiting {
                let Ok(share) = ready!(waiting.as_mut().poll(cx)) else { return Poll::Ready(None) };
                this.waiting = None;
                this.share.set(Some(share));
                this.deadline = Some(Box::pin(tokio::time::sleep(MESSAGE_TIMEOUT)));
                let prefix = Bytes::copy_from_slice(&this.prefix);
                return Poll::Ready(Some(Ok(Frame::data(prefix))));
            }
            if this.came.has_remaining() {
                match this.advance() {
                    Some(frame) => return Poll::Ready(Some(Ok(frame))),
                    None => continue,
                }
            }
            if this.left == 0 {
                this.deadline = None;
            }
            if let Some(deadline) = &mut this.deadline
                && deadline.as_mut().poll(cx).is_ready()
            {
                let message = format!("a message took longer than {MESSAGE_TIMEOUT:?}");
                return Poll::Ready(Some(Err(to_status(ErrorInfo::new(
                    ErrorCode::Overloaded,
                    message,
                )))));
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.came = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
    }
}

impl fmt::Debug for MeteredBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeteredBody").field("left", &self.left).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use tokio::sync::mpsc;

    /// A body that is what a test sends, and open until the test hangs up.
    pub(crate) struct ChannelBody(mpsc::UnboundedReceiver<Bytes>);

    pub(crate) fn channel_body() -> (mpsc::UnboundedSender<Bytes>, Body) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Body::new(ChannelBody(receiver)))
    }

    impl http_body::Body for ChannelBody {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
        }
    }

    /// A message as gRPC frames it.
    pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
        [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{channel_body, framed};
    use super::*;
    use futures::poll;
    use http_body::Body as _;

    async fn next(body: &mut MeteredBody) -> Poll<Option<Bytes>> {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
        poll!(Box::pin(frame)).map(|frame| frame.map(|frame| frame.unwrap().into_data().unwrap()))
    }

    #[tokio::test]
    async fn a_message_waits_until_the_pool_has_room_for_all_of_it() {
        let pool: Pool = Arc::new(Semaphore::new(10));
        let metered =
            |body, share: &Share| MeteredBody::new(body, Arc::clone(&pool), share.clone());
        let (first, body) = channel_body();
        let first_share = Share::default();
        let mut first_body = metered(body, &first_share);
        let (second, body) = channel_body();
        let mut second_body = metered(body, &Share::default());

        // Eight bytes, of which half have come: the share is taken in whole.
        let message = framed(b"12345678");
        first.send(Bytes::copy_from_slice(&message[..9])).unwrap();
        assert_eq!(
            next(&mut first_body).await,
            Poll::Ready(Some(Bytes::copy_from_slice(&message[..5])))
        );
        assert_eq!(next(&mut first_body).await, Poll::Ready(Some(Bytes::from_static(b"1234"))));
        assert_eq!(pool.available_permits(), 2);
        second.send(Bytes::from(framed(b"abc"))).unwrap();
        assert_eq!(next(&mut second_body).await, Poll::Pending, "not even its length is told");

        // The rest comes with the beginning of another message, which has to wait for its own share.
        first.send(Bytes::from([&message[9..], &framed(b"xyz")].concat())).unwrap();
        assert_eq!(next(&mut first_body).await, Poll::Ready(Some(Bytes::from_static(b"5678"))));
        first_share.give_back();
        assert_eq!(
            next(&mut second_body).await,
            Poll::Ready(Some(Bytes::from(framed(b"abc")).slice(..5)))
        );
        assert_eq!(
            next(&mut first_body).await,
            Poll::Ready(Some(Bytes::from(framed(b"xyz")).slice(..5)))
        );
        assert_eq!(pool.available_permits(), 4);
        drop((first_body, second_body, first_share));
        assert_eq!(pool.available_permits(), 10);
    }

    #[tokio::test]
    async fn a_length_over_the_limit_takes_nothing_from_others() {
        let pool: Pool = Arc::new(Semaphore::new(10));
        let (sender, body) = channel_body();
        let mut body = MeteredBody::new(body, Arc::clone(&pool), Share::default());
        sender.send(Bytes::from_static(&[0, 255, 255, 255, 255])).unwrap();
        assert!(next(&mut body).await.is_ready());
        assert_eq!(pool.available_permits(), 10);
    }
}
